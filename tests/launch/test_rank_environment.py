"""The rules by which ranks get their environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from commands import REPOSITORY

from launch.environment import address_towards, interface_towards, rank_variables


def values(variables) -> dict[str, str]:
    return {variable.name: variable.value for variable in variables}


def test_cores_are_shared_and_no_rank_is_without():
    cores = len(os.sched_getaffinity(0))
    assert values(rank_variables(None, 1, {}))["OMP_NUM_THREADS"] == str(cores)
    assert values(rank_variables(None, 1000, {}))["OMP_NUM_THREADS"] == "1"


def test_what_the_user_has_set_is_left_alone():
    found = rank_variables("127.0.0.1", 1, {"GLOO_SOCKET_IFNAME": "ib0"})
    assert values(found)["GLOO_SOCKET_IFNAME"] == "ib0"
    assert [variable.name for variable in found if variable.is_users] == ["GLOO_SOCKET_IFNAME"]


def test_the_interface_is_the_one_that_leads_to_the_first_host():
    assert interface_towards("127.0.0.1") == "lo" and address_towards("127.0.0.1") == "127.0.0.1"
    assert "GLOO_SOCKET_IFNAME" not in values(rank_variables(None, 2, {}))
    with pytest.raises(OSError):
        interface_towards("no-such-host.invalid")


def test_a_shell_can_read_it():
    command = f'eval "$({sys.executable} -m launch.environment 127.0.0.1 2)" && echo "$NCCL_SOCKET_IFNAME $address"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY, env={"PATH": "/bin"})
    assert done.stdout == "lo 127.0.0.1\n" and done.stderr == ""
