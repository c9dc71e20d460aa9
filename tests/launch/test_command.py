"""The front door: quick, helpful, and silent about nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launch.command import VERBS


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "launch.command", *arguments], capture_output=True, text=True)


def test_help_lists_every_verb_and_exits_well():
    result = headrace("--help")
    assert result.returncode == 0
    assert all(f"  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_short_help_with_three_examples(verb):
    result = headrace(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) < 50
    assert result.stdout.count(f"  headrace {verb}") + result.stdout.count(f" -m {verb}") >= 3


def test_help_imports_nothing_slow():
    program = (
        "import sys; from launch.command import main; sys.argv = ['headrace', '--help']; main(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    assert not {"torch", "hydra", "deepspeed", "wandb", "numpy", "rich"} & set(loaded)


def test_an_unknown_verb_is_answered_with_the_nearest():
    result = headrace("trian")
    assert result.returncode == 2
    assert result.stderr == (
        "headrace: there is no verb `trian`. Did you mean `train`? Verbs: " + ", ".join(VERBS) + "\n"
    )


@pytest.mark.parametrize("flag", ["--fast", "-x", "--cfg"])
def test_an_unknown_flag_is_named(flag):
    result = headrace("train", flag)
    assert result.returncode == 2
    assert flag in result.stderr and len(result.stderr.splitlines()) == 1
