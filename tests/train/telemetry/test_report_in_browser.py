"""The report in a real browser, driven over Chromium's DevTools pipe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from train.telemetry.recorder import Recorder
from train.telemetry.report import write_report


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    tab = Browser()
    yield tab
    tab.close()


def a_run(folder: Path, steps: int, hostile: str = "") -> Path:
    folder.mkdir()
    recorder = Recorder(folder)
    recorder.event("started", 0)
    for step in range(1, steps + 1):
        row = {"step": step, "tokens": step * 1024, "loss": 2 + 8 * math.exp(-step / 20), "learning_rate": 3e-4}
        row |= {"grad_norm": 1 + step % 7 / 10, "tokens_per_second": 1e5 + step % 5, "step_seconds": 0.01}
        if step % 20 == 0:
            row["validation_loss"] = row["loss"] + 0.1
            recorder.event("checkpoint_saved", step, path=hostile)
            recorder.sample(step, "从前", f"有一条河 {hostile}")
        recorder.metrics(row)
    recorder.close()
    (folder / "config.yaml").write_text(f"run:\n  name: {hostile or 'plain'}\n")
    return folder


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_draws_its_charts_within_the_page(browser, tmp_path, width, scheme):
    page = write_report([a_run(tmp_path / "a-run-with-a-rather-long-name", 120)], tmp_path / "report.html")
    browser.open(page, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('figure').length") == 5
    assert browser.evaluate("[...document.querySelectorAll('figure svg')].every((s) => s.querySelector('path.curve'))")
    assert "NaN" not in browser.evaluate("document.querySelector('main').innerHTML")
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requests == [page.as_uri()]


def test_axis_and_scale_can_be_changed_and_values_read(browser, tmp_path):
    runs = [a_run(tmp_path / "small", 60), a_run(tmp_path / "large", 90)]
    browser.open(write_report(runs, tmp_path / "report.html"), 1280)
    shape = "document.querySelector('figure[data-chart=loss] path.curve').getAttribute('d')"
    shapes = {browser.evaluate(shape)}
    for control in ("[data-scale=linear]", "[data-axis=tokens]"):
        browser.evaluate(f"document.querySelector('{control}').click()")
        shapes.add(browser.evaluate(shape))
    assert len(shapes) >= 2
    assert browser.evaluate("document.querySelector('[data-axis=tokens]').getAttribute('aria-pressed')") == "true"
    x, y = browser.evaluate(
        "(({x, y}) => [x + 400, y + 90])(document.querySelector('figure svg').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    read = browser.evaluate("document.querySelector('.readout').textContent")
    assert read.startswith("tokens ") and "small" in read and "large" in read
    assert browser.complaints() == []


def test_nothing_that_a_run_holds_is_executed(browser, tmp_path):
    hostile = '</script></pre><img src=x onerror="window.taken=1"><script>window.taken=1</script>{{ 7*7 }}<!--'
    page = write_report([a_run(tmp_path / "run", 60, hostile)], tmp_path / "report.html")
    browser.open(page, 1280)
    assert browser.complaints() == []
    assert browser.evaluate("window.taken === undefined")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert hostile in browser.evaluate("document.querySelector('.sample p').textContent")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_just_begun_is_drawn_without_an_error(browser, tmp_path, steps):
    browser.open(write_report([a_run(tmp_path / "new", steps)], tmp_path / "report.html"), 390)
    assert browser.complaints() == []
    assert "NaN" not in browser.evaluate("document.querySelector('main').innerHTML")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_loss_below_zero_is_drawn_on_a_linear_scale(browser, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recorder = Recorder(folder)
    for step in range(1, 50):
        recorder.metrics({"step": step, "tokens": step, "loss": 1 - step / 10})
    browser.open(write_report([folder], tmp_path / "report.html"), 1280)
    assert browser.complaints() == []
    assert "NaN" not in browser.evaluate("document.querySelector('main').innerHTML")
