import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.foundation.pages import page_style
from train.telemetry import report
from train.telemetry.curves import COLUMNS, every, robust_range, smooth, thin
from train.telemetry.recorder import Recorder
from train.telemetry.report import distinct_names, embedded_json, write_report
from train.telemetry.summary import summarize


class Page(HTMLParser):
    """The elements of a page, and the text in them by tag."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def data(self):
        return json.loads(next(text for text in self.texts["script"] if text.startswith('{"runs"')))


def a_run(folder, steps=30, text="a river"):
    folder.mkdir(parents=True)
    recorder = Recorder(folder)
    recorder.event("started", 0, reason=text)
    for step in range(1, steps + 1):
        recorder.metrics({"step": step, "tokens": 64 * step, "loss": 3 - step / 100, "step_seconds": 0.1})
    recorder.sample(steps, text, text)
    recorder.close()
    (folder / "config.yaml").write_text(f"name: {text}\n")
    (folder / "evaluation.json").write_text(json.dumps({"bits_per_byte": 0.75, "tasks": {text: {"accuracy": 0.5}}}))
    return folder


def page_of(runs, tmp_path):
    return Page(write_report(runs, tmp_path / "page.html").read_text())


def test_the_page_refers_to_nothing_outside_itself(tmp_path):
    text = write_report([a_run(tmp_path / "run")], tmp_path / "page.html").read_text()
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^\s*// .*$", "", text, flags=re.MULTILINE))
    for tag, attributes in Page(text).elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "srcset", "action", "style" if tag == "link" else "src"} & attributes.keys()
    assert "url(" not in page_style(report.TEMPLATES / "report.css")
    policy = next(a["content"] for tag, a in Page(text).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_text_of_a_run_stays_text(tmp_path, monkeypatch):
    clock = itertools.count(1.8e9)
    monkeypatch.setattr("train.telemetry.recorder.time", SimpleNamespace(time=lambda: float(next(clock))))
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7*7 }} ]]> <!-- \u2028 &amp; 从前"
    plain, attacked = (
        page_of([a_run(tmp_path / "a")], tmp_path),
        page_of([a_run(tmp_path / "b", text=hostile)], tmp_path),
    )
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in plain.elements]
    assert hostile in attacked.texts["p"] and f"name: {hostile}\n" in attacked.texts["pre"]
    assert any(hostile in text for text in attacked.texts["td"])
    name = tmp_path / "<b>bold<" / "<svg onload=alert(1)>"
    assert page_of([a_run(name)], tmp_path).data()["runs"][0]["name"] == name.name


def test_embedded_json_cannot_end_its_element():
    value = {"</script><!--": "\u2028 & <b>从前"}
    text = embedded_json(value)
    assert not set("<>&\u2028") & set(text) and json.loads(text) == value


def test_a_run_that_has_recorded_nothing_has_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    page = page_of([tmp_path / "run"], tmp_path)
    assert "not started" in page.texts["span"] and page.data()["runs"][0]["curves"] == {}


def test_a_run_cut_off_in_the_middle_of_everything_has_a_page(tmp_path):
    run = a_run(tmp_path / "run", steps=3)
    for name in (
        "metrics.jsonl",
        "events.jsonl",
        "samples.jsonl",
        "evaluation.json",
        "environment.json",
        "summary.json",
    ):
        with open(run / name, "ab") as file:
            file.write(b'{"step": 4, "lo')
    page = page_of([run], tmp_path)
    assert page.data()["runs"][0]["curves"]["loss"]["x"] == [1, 2, 3] and "running" in page.texts["span"]


def test_a_run_that_goes_on_is_not_called_by_the_end_it_had_before(tmp_path):
    run = a_run(tmp_path / "run")
    summarize(run, "stopped", {}, {})
    assert "stopped" in page_of([run], tmp_path).texts["span"]
    Recorder(run).event("resumed", 30)
    assert "running" in page_of([run], tmp_path).texts["span"]
    summarize(run, "done", {}, {})
    assert "done" in page_of([run], tmp_path).texts["span"]


def test_several_runs_stand_side_by_side_under_distinct_names(tmp_path):
    runs = [a_run(tmp_path / "one" / "run", steps=5), a_run(tmp_path / "two" / "run", steps=9)]
    page = page_of(runs, tmp_path)
    assert [run["name"] for run in page.data()["runs"]] == ["one/run", "two/run"]
    assert "2 runs side by side" in page.texts["h1"]
    assert page.texts["td"].count("0.75") == 2


def test_names_have_as_much_of_the_path_as_tells_them_apart():
    assert distinct_names([Path("/runs/a")]) == ["a"]
    assert distinct_names([Path("/x/1/a"), Path("/y/1/a"), Path("/y/2/b")]) == ["x/1/a", "y/1/a", "y/2/b"]
    assert distinct_names([Path("/r/a"), Path("/r/a")]) == ["a (1)", "a (2)"]


def test_a_long_run_is_thinned_and_keeps_every_peak(tmp_path):
    steps = list(range(10_000))
    values = [1.0] * len(steps)
    values[1234], values[7777] = 50.0, -50.0
    x, y = thin(steps, values)
    assert len(x) <= 2 * COLUMNS + 2 and x == sorted(x)
    assert (x[y.index(50.0)], x[y.index(-50.0)]) == (1234, 7777)
    assert (x[0], x[-1]) == (0, 9999)
    assert thin(steps[:40], values[:40]) == (steps[:40], values[:40])


def test_smoothing_neither_lags_behind_a_line_nor_moves_a_constant():
    assert smooth([2.0] * 50, 5) == pytest.approx([2.0] * 50)
    line = [float(index) for index in range(100)]
    assert smooth(line, 4)[:90] == pytest.approx(line[:90])
    noisy = [index % 2 for index in range(200)]
    assert all(abs(value - 0.5) < 0.1 for value in smooth(noisy, 10)[70:])


def test_every_keeps_the_last_point_and_a_robust_range_leaves_out_the_outlier():
    assert every(list(range(1001)), list(range(1001)), 10)[0][-1] == 1000
    assert robust_range([1.0] * 500 + [2.0] * 500 + [99.0]) == (1.0, 2.0)


def test_the_verb_writes_into_the_run_and_says_where(tmp_path, capsys):
    run = a_run(tmp_path / "run")
    assert report.VERB.main([f"source={run}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"report": str(run / "report.html"), "bytes": (run / "report.html").stat().st_size}
    other = a_run(tmp_path / "other")
    assert report.VERB.main([f"source=[{run},{other}]", f"output={tmp_path}/both.html"]) == 0
    assert (tmp_path / "both.html").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "`source` is required"),
        (["source=nowhere"], "no such folder"),
        (["source={folder}"], "is not a run"),
        (["source=[]"], "names no run"),
        (["source={run}", "output={folder}"], "is a folder"),
        (["source={run}", "output={folder}/a/b.html"], "no folder"),
        (["sauce={run}"], "Did you mean `source`"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, capsys, arguments, message):
    places = {"run": a_run(tmp_path / "run"), "folder": tmp_path}
    assert report.VERB.main([argument.format(**places) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
