import json
import math
import os
import resource
from contextlib import contextmanager

import numpy
import pytest

from data_pipeline.foundation.errors import Failure
from train.telemetry import recorder as recorder_module
from train.telemetry.recorder import Recorder, read_lines


def steps(path):
    return [row["step"] for row in read_lines(path)]


def test_each_line_is_on_file_as_soon_as_it_is_recorded(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.metrics({"step": 1, "loss": 2.5})
    recorder.event("resumed", 1, reason="preempted", rejected=["step-00000002"])
    recorder.sample(1, "从前", "有一条河\n")
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    assert (row["step"], row["loss"]) == (1, 2.5) and row["time"] > 1.6e9
    (event,) = read_lines(tmp_path / "events.jsonl")
    assert (event["kind"], event["reason"], event["rejected"]) == ("resumed", "preempted", ["step-00000002"])
    (sample,) = read_lines(tmp_path / "samples.jsonl")
    assert (sample["prompt"], sample["text"]) == ("从前", "有一条河\n")


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\0" * 5000, '{"t": "河'.encode()[:-1], b"\0" * 200_000])
def test_a_torn_last_line_is_left_out_by_readers_and_cut_off_by_the_next_start(tmp_path, tail):
    recorder = Recorder(tmp_path)
    recorder.metrics({"step": 1})
    recorder.metrics({"step": 2})
    recorder.close()
    path = tmp_path / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(tail)
    assert steps(path) == [1, 2]
    Recorder(tmp_path).metrics({"step": 3})
    assert steps(path) == [1, 2, 3]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_file_that_is_nothing_but_a_torn_line_becomes_empty(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'{"kind": "star')
    Recorder(tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_rewinding_forgets_later_metrics_and_samples_but_no_event(tmp_path):
    recorder = Recorder(tmp_path)
    for step in range(1, 8):
        recorder.metrics({"step": step})
        recorder.sample(step, "a", "b")
        recorder.event("checkpoint_saved", step)
    assert recorder.rewind(4) == 3
    assert recorder.rewind(4) == 0
    recorder.metrics({"step": 5})
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert steps(tmp_path / "samples.jsonl") == [1, 2, 3, 4]
    assert steps(tmp_path / "events.jsonl") == [1, 2, 3, 4, 5, 6, 7]
    assert not list(tmp_path.glob(".*"))


def test_rewinding_keeps_the_rows_as_they_were_recorded(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.metrics({"step": 1, "loss": 0.1 + 0.2, "note": "河"})
    recorder.metrics({"step": 2})
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()[0]
    recorder.rewind(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before + b"\n"


def test_numbers_that_are_not_finite_become_null_and_those_of_numpy_plain(tmp_path):
    Recorder(tmp_path).metrics({"step": 1, "loss": math.nan, "norms": [math.inf, 1.0], "rate": numpy.float32(0.5)})
    line = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (row["loss"], row["norms"], row["rate"]) == (None, [None, 1.0], 0.5)


def test_text_that_is_not_valid_unicode_is_recorded_all_the_same(tmp_path):
    Recorder(tmp_path).sample(1, "a", "half a character: \ud83d")
    assert read_lines(tmp_path / "samples.jsonl")[0]["text"] == "half a character: ?"


@contextmanager
def full_disk(recorder):
    """Let no file grow further, as a full disk does; Python ignores the signal that comes with it."""
    size = max(os.fstat(lines._file.fileno()).st_size for lines in (recorder._metrics, recorder._events))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_a_full_disk_does_not_take_is_told_once_and_written_when_there_is_room(tmp_path, capsys):
    recorder = Recorder(tmp_path)
    recorder.metrics({"step": 1})
    with full_disk(recorder):
        for step in range(2, 50):
            recorder.metrics({"step": step})
        (line,) = capsys.readouterr().err.splitlines()
        assert "Training goes on" in line
        assert steps(tmp_path / "metrics.jsonl") == [1]
    recorder.metrics({"step": 50})
    recorder.close()
    assert steps(tmp_path / "metrics.jsonl") == list(range(1, 51))
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines())
    assert capsys.readouterr().err == ""


def test_memory_stays_bounded_and_what_is_lost_is_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recorder_module, "WAITING_LINES", 10)
    recorder = Recorder(tmp_path)
    recorder.metrics({"step": 1})
    with full_disk(recorder):
        for step in range(2, 32):
            recorder.metrics({"step": step})
        assert len(recorder._metrics._waiting) == 10
    recorder.close()
    assert steps(tmp_path / "metrics.jsonl") == [1, *range(22, 32)]
    assert "20 lines of" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_at_the_start_is_a_failure_by_name(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(Failure, match=r"metrics\.jsonl can't be written"):
        Recorder(tmp_path)
