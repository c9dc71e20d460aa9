"""A run whose processes share sequences by pairs learns and measures what one process does."""

from __future__ import annotations

import pytest
from commands import run_command
from small_runs import MEASURED, learnt, train_command


def test_two_pairs_learn_and_measure_what_one_process_does(undisturbed, small_dataset, tmp_path):
    finished = run_command(train_command(small_dataset, "parallel.sequence=2", "zero=1", ranks=4), tmp_path)
    assert finished.code == 0, finished.err
    assert "2 ranks)" in finished.err and "each of them 2 processes that share its sequences" in finished.err
    found, expected = learnt(tmp_path / "runs" / "run"), learnt(undisturbed(1))
    assert any(row["validation_loss"] is not None for row in found)
    for key in MEASURED:
        values = [row[key] for row in found]
        assert values == pytest.approx([row[key] for row in expected], rel=1e-4), key
