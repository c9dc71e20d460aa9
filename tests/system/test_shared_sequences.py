"""A run whose processes share sequences by pairs is that of one process, and goes on there."""

from __future__ import annotations

import pytest
from commands import run_command
from small_runs import MEASURED, STEPS, learnt, train_command


def test_two_pairs_learn_and_measure_what_one_process_does_which_takes_over(undisturbed, small_dataset, tmp_path):
    stopped = run_command(
        train_command(small_dataset, "parallel.sequence=2", "zero=1", "stop_after=20", ranks=4), tmp_path
    )
    assert stopped.code == 75, stopped.err
    assert "2 ranks)" in stopped.err and "each of them 2 processes that share its sequences" in stopped.err
    finished = run_command(train_command(small_dataset), tmp_path)
    assert finished.code == 0, finished.err
    found, expected = learnt(tmp_path / "runs" / "run"), learnt(undisturbed(1))
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    for key in MEASURED:
        values = {row["step"]: row[key] for row in found if row[key] is not None}
        assert values == pytest.approx({row["step"]: row[key] for row in expected if row[key] is not None}, rel=1e-4), (
            key
        )
    assert any(row["validation_loss"] is not None for row in found if row["step"] <= 20)
