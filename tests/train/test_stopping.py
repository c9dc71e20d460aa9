"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from train.stopping import StopRequests
with StopRequests() as requests:
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
    print(requests.reason)
"""


@pytest.mark.parametrize(
    ("names", "launched", "code"),
    [
        (["SIGTERM"], False, 0),
        (["SIGTERM", "SIGTERM"], False, 75),
        (["SIGUSR1", "SIGTERM", "SIGTERM"], True, 0),
        (["SIGTERM", "SIGINT"], True, 75),
    ],
)
def test_a_second_signal_ends_at_once_unless_a_launcher_says_it_again(names, launched, code):
    environment = {"SLURM_JOB_ID": "7"} if launched else {}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == (f"{signal.Signals[names[0]].name}\n" if code == 0 else "")
