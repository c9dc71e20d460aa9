"""Each guarantee has a test that fails without it: shown by breaking it. In `make soak` alone, for it takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import REPOSITORY, Finished, python, run_command
from mutations import MUTATIONS, Mutation
from soak import long, note

GUARANTEES = {"exact", "elastic", "complete", "durable", "polite", "equal", "safe"}
COPIED = ("conf", "data_pipeline", "train", "launch", "tests", "pyproject.toml")


def test_every_guarantee_is_broken_by_a_change_that_still_fits_the_source():
    assert {mutation.guarantee for mutation in MUTATIONS} == GUARANTEES
    for mutation in MUTATIONS:
        source = (REPOSITORY / mutation.file).read_text(encoding="utf-8")
        assert source.count(mutation.before) == 1, f"{mutation.file}: {mutation.what}"
        compile(source.replace(mutation.before, mutation.after), mutation.file, "exec")


def copy_of_the_repository(folder: Path) -> Path:
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run_tests(folder: Path, tests: list[str]) -> Finished:
    """Run some tests, long ones too, with few random cases."""
    return run_command(python("-m", "pytest", "-x", *tests), folder, 1500, HEADRACE_SOAK="2", PYTHONPATH=str(folder))


@long
@pytest.mark.timeout(1800)
def test_without_a_break_all_of_these_tests_pass(tmp_path):
    tests = dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests.split())
    finished = run_tests(copy_of_the_repository(tmp_path), list(tests))
    assert finished.code == 0, finished.out


@long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.guarantee}: {mutation.what}")
def test_a_break_is_caught(tmp_path, mutation: Mutation):
    path = copy_of_the_repository(tmp_path) / mutation.file
    path.write_text(path.read_text(encoding="utf-8").replace(mutation.before, mutation.after), encoding="utf-8")
    finished = run_tests(tmp_path, mutation.tests.split())
    assert finished.code == 1, f"nobody noticed:\n{finished.out}"
    failed = sorted(
        {line.split(" ")[1].partition("[")[0] for line in finished.out.splitlines() if line.startswith("FAILED ")}
    )
    assert failed, finished.out
    note(
        "Guarantees",
        guarantee=mutation.guarantee,
        broken_by=mutation.what,
        caught_by=", ".join(f"`{name}`" for name in failed),
    )
