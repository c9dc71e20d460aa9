"""The doctor names what is wrong, and how to mend it."""

from __future__ import annotations

import json
import os
import resource
import time
from importlib import metadata

import pytest

from launch.doctor import machine, network, software
from launch.doctor.__main__ import VERB


def test_this_machine_is_told_of_as_json(tmp_path, capsys):
    code = VERB.main(["--json", f"folder={tmp_path}", "ranks=2"])
    told = json.loads(capsys.readouterr().out)
    findings = told["findings"]
    assert code == int(any(finding["level"] == "red" for finding in findings))
    subjects = {finding["subject"] for finding in findings}
    assert subjects >= {"Python", "packages", "devices", "compiler", "build locks", "launchers", "wandb", "disk room"}
    assert subjects >= {"disk", "clock", "open files", "shared memory", "environment", "all-reduce"}
    assert all(finding["mend"] for finding in findings if finding["level"] != "green")
    reduced = [finding["text"] for finding in findings if finding["subject"] == "all-reduce"]
    assert len(reduced) == len(network.SIZES) and all("GB/s" in text for text in reduced)


def test_a_python_that_is_too_old_is_red():
    assert software.python((3, 10)).level == "red"


def test_another_version_than_asked_for_is_red(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "deepspeed" else version(name))
    [finding] = software.packages()
    assert finding.level == "red" and "deepspeed 1.0, not ==" in finding.text


def test_a_lock_of_a_killed_build_is_named_with_what_removes_it(tmp_path):
    lock = tmp_path / "py311_cpu" / "op" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert [finding.level for finding in software.build_locks(tmp_path)] == ["green"]
    os.utime(lock, (time.time() - 7200,) * 2)
    [finding] = software.build_locks(tmp_path)
    assert (finding.level, finding.mend) == ("yellow", f"rm {lock}")


def test_a_login_is_found_by_key_or_by_file(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert software.wandb_login().level == "yellow"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert software.wandb_login().level == "green"


def test_few_open_files_are_yellow_with_the_command(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 65536))
    assert machine.open_files().mend == "ulimit -n 4096"


@pytest.mark.parametrize(
    ("modes", "levels"),
    [("always [madvise] never", ["green"]), ("always madvise [never]", ["yellow"]), (None, [])],
)
def test_huge_pages_that_are_never_given_are_yellow_and_none_where_the_system_has_none(
    tmp_path, monkeypatch, modes, levels
):
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    if modes is not None:
        (tmp_path / "enabled").write_text(modes + "\n")
    assert [finding.level for finding in machine.huge_pages()] == levels


@pytest.mark.parametrize(("free", "level"), [(5e8, "red"), (5e9, "yellow"), (5e11, "green")])
def test_a_disk_without_room_is_red(tmp_path, monkeypatch, free, level):
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    assert machine.room(tmp_path).level == level


def test_a_folder_that_cannot_be_written_is_red(tmp_path):
    [finding] = machine.disk(tmp_path / "nothing")
    assert finding.level == "red" and "can't be written" in finding.text


def test_a_clock_that_is_another_than_the_file_systems_is_red(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.time, "time", lambda: time.monotonic())
    assert [finding.level for finding in machine.disk(tmp_path) if finding.subject == "clock"] == ["red"]
