"""Killed a hundred times, most often inside a save and at each step of its publication, a run loses nothing.

In `make soak` 25 times per case; in short otherwise.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from kills import Trainings, assert_each_sequence_once, attempts, draw_kill, said
from small_runs import STEPS, assert_same_result, learnt
from soak import long, note, soaking

KILLS = 25 if soaking() else 3
KILLED = -9


@pytest.fixture(scope="module")
def reference(trainings, tmp_path_factory):
    """Return the folder of a run that nothing disturbs, by its ranks and ZeRO stage; made when first asked for."""
    made: dict[tuple[int, int], Path] = {}

    def reference_of(ranks: int, stage: int) -> Path:
        if (ranks, stage) not in made:
            folder = tmp_path_factory.mktemp(f"undisturbed-{ranks}-{stage}")
            assert trainings.train(folder, f"zero={stage}", ranks=ranks) == [0] * ranks, said(folder)
            made[ranks, stage] = folder
        return made[ranks, stage]

    return reference_of


def train_with_kills(
    trainings: Trainings, folder: Path, shapes: list[tuple[int, int]], draw: random.Random
) -> tuple[list[Path], Counter[str]]:
    """Kill a run again and again until there have been enough kills, then let it end.

    A run that ends before makes room for the next one. Every start takes the next of `shapes`, ranks and ZeRO stage.

    Returns:
        the folders of all runs, the kills by the point at which they struck.
    """
    points: Counter[str] = Counter()
    folders, starts, planned = [folder / "0"], itertools.cycle(shapes), 0
    while True:
        ranks, stage = next(starts)
        enough = points.total() >= KILLS
        # Points come in turn, so that a short test meets other ones in every case.
        plan = None if enough else draw_kill(draw, planned, ranks)
        planned += 1
        codes = trainings.train(folders[-1], f"zero={stage}", ranks=ranks, kill=plan)
        if KILLED in codes and plan:
            points[plan["point"]] += 1
        else:
            assert codes == [0] * ranks, said(folders[-1])
            if enough:
                return folders, points
            folders.append(folder / str(len(folders)))


def note_kills(case: str, points: Counter[str], folders: list[Path], result: str) -> None:
    inside = points.total() - points["step"]
    struck = ", ".join(f"{point} {count}" for point, count in sorted(points.items()))
    starts = sum(len(attempts(folder)) for folder in folders)
    note("Kills", case=case, kills=points.total(), inside_saves=inside, at=struck, starts=starts, result=result)
    assert 2 * inside >= points.total()


CASES = [(2, 3), *([(1, 1), (1, 3), (2, 1)] if soaking() else [])]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ranks", "stage"), CASES)
def test_killed_inside_saves_and_out_every_loss_and_every_bit_is_the_same(trainings, reference, tmp_path, ranks, stage):
    undisturbed = reference(ranks, stage)
    folders, points = train_with_kills(trainings, tmp_path, [(ranks, stage)], random.Random(10 * ranks + stage))
    for folder in folders:
        assert_same_result(folder / "runs" / "run", undisturbed / "runs" / "run")
        assert_each_sequence_once(folder, undisturbed)
        left = sorted(path.name for path in (folder / "runs" / "run" / "checkpoints").iterdir())
        assert left == [f"step-{STEPS - 2:08d}", f"step-{STEPS:08d}"], "debris of a save, or of a removal"
    note_kills(
        f"{ranks} process{'es' if ranks > 1 else ''}, ZeRO {stage}",
        points,
        folders,
        "every loss, sample and final weight bitwise the same; each sequence once",
    )


@pytest.mark.timeout(1800)
@long
def test_killed_and_started_at_other_world_sizes_and_stages_it_reads_the_same_sequences(trainings, reference, tmp_path):
    undisturbed = reference(1, 1)
    shapes = [(1, 0), (2, 3), (1, 1), (2, 1), (1, 3)] if soaking() else [(1, 0), (2, 3), (1, 1)]
    folders, points = train_with_kills(trainings, tmp_path, shapes, random.Random(0))
    furthest = 0.0
    for folder in folders:
        assert_each_sequence_once(folder, undisturbed)
        losses = [[row["loss"] for row in learnt(run / "runs" / "run")] for run in (folder, undisturbed)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
        furthest = max(furthest, *(abs(a - b) for a, b in zip(*losses)))
    note_kills(
        f"ranks and ZeRO {' → '.join(f'{ranks}·{stage}' for ranks, stage in shapes)}",
        points,
        folders,
        f"the same sequences in every step, losses at most {furthest:.1e} apart",
    )
