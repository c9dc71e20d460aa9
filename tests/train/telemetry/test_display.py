import io
import sys

import pytest

from train.telemetry.display import Display, amount, duration, sparkline


class Terminal(io.StringIO):
    def isatty(self):
        return True


def row(step, **more):
    return {"step": step, "loss": 3.25, "tokens_per_second": 12_345.0, "mfu": 0.41, "learning_rate": 3e-4, **more}


def test_a_log_gets_the_first_steps_the_measured_ones_and_the_last(capsys):
    with Display(total_steps=500, first_step=0, tokens_per_step=1024) as display:
        for step in range(1, 501):
            display.update(row(step, **({"validation_loss": 3.5} if step == 250 else {})))
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    shown = [line.split("  ")[0] for line in lines]
    assert shown == ["step 1/500", "step 2/500", "step 3/500", "step 250/500", "step 500/500"]
    assert "loss 3.2500" in lines[0] and "12.3k tokens/s" in lines[0] and "MFU 41%" in lines[0] and "left" in lines[1]
    assert "validation 3.5000" in lines[3]


def test_a_run_that_stops_early_shows_the_step_it_reached(capsys):
    with Display(total_steps=500, first_step=0, tokens_per_step=1) as display:
        for step in range(1, 8):
            display.update(row(step))
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 7/500")


def test_a_value_that_is_missing_is_left_out_and_one_that_is_not_finite_is_shown(capsys):
    with Display(total_steps=2, first_step=0, tokens_per_step=1) as display:
        display.update({"step": 1, "loss": None, "mfu": None})
        display.update({"step": 2, "loss": float("nan")})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/2") and "loss" not in first and "MFU" not in first
    assert second == "step 2/2  loss nan"


def test_a_terminal_gets_a_live_display(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Display(total_steps=4, first_step=0, tokens_per_step=1024) as display:
        for step in range(1, 4):
            display.update(row(step))
        display.update(row(3, loss=float("inf")))
        display.note("checkpoint saved")
        display.update(row(3))
    text = terminal.getvalue()
    assert "3/4" in text and "3.2500" in text and "checkpoint saved" in text and "\x1b[" in text


def test_text_of_a_model_cannot_steer_the_terminal(capsys):
    with Display(total_steps=1, first_step=0, tokens_per_step=1) as display:
        display.note("[red]从前\x1b]0;title\x07\n\x9b2J")
    assert capsys.readouterr().err == "[red]从前\\x1b]0;title\\x07\n\\x9b2J\n"


@pytest.mark.parametrize(
    "number, text", [(0, "0"), (999, "999"), (1000, "1k"), (12_345, "12.3k"), (999_999, "1M"), (1.2345e9, "1.23G")]
)
def test_amounts_have_three_digits(number, text):
    assert amount(number) == text


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")]
)
def test_durations_have_the_two_units_that_matter(seconds, text):
    assert duration(seconds) == text


def test_a_sparkline_spans_lowest_to_highest():
    assert sparkline([9, 0, 7, 3.5], 3) == "▁█▅"
    assert sparkline([2, 2], 8) == "▁▁" and sparkline([], 8) == ""
