"""Every mistake ends with exit code 2 and one line that names it, before anything is written; damage ends with 1."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from commands import python, run_command
from small_runs import SETTINGS, assert_one_line, copied, the_line, train_command

REFUSED = {
    # What was typed, and what the one line must say.
    "unknown key": (
        ["optimizer.learningrate=1"],
        "unknown key `optimizer.learningrate`. Did you mean `optimizer.learning_rate`?",
    ),
    "unknown key at the top": (["stpes=3"], "unknown key `stpes`. Did you mean `steps`?"),
    "unknown option": (["model=nanno"], "`model` has no option `nanno`. Did you mean `nano`?"),
    "unknown zero stage": (["zero=4"], "`zero` has no option `4`"),
    "stage given as a setting": (["zero.stage=4"], "zero.stage=4: there are stages 0, 1, 2 and 3"),
    "unknown precision": (["precision=int8"], "`precision` has no option `int8`"),
    "wrong type": (["steps=many"], "`steps`"),
    "no steps": (["steps=0"], "steps=0 must be at least 1"),
    "not KEY=VALUE": (["steps"], "can't read `steps`"),
    "unknown flag": (["--steps=3"], "unknown flag `--steps=3`"),
    "sequence longer than the model": (
        ["data.sequence_length=2000"],
        "data.sequence_length=2000 is longer than the model allows",
    ),
    "sequence longer than the data": (
        ["data.sequence_length=900000", "model.maximum_length=900000"],
        "prepare more text or shorten",
    ),
    "batch that does not divide": (["batch.sequences=7"], "batch.micro=2 does not divide"),
    "no dataset": (["data.path=nowhere"], "nowhere: there is no such dataset folder"),
    "vocabulary smaller than the dataset's": (
        ["model.vocabulary_size=100"],
        "model.vocabulary_size=100 is smaller than the dataset's",
    ),
    "heads that do not divide": (["model.heads=3"], "model.heads=3 does not divide"),
    "unknown split": (["validation.split=test"], "no split `test`; it has train, validation"),
    "bf16 at stage 0": (["precision=bf16"], "use zero=1"),
    "offload at stage 0": (["zero.offload_optimizer=true"], "zero.offload_optimizer needs zero=1, 2 or 3"),
    "parameters offloaded at stage 2": (
        ["zero=2", "zero.offload_parameters=true"],
        "zero.offload_parameters needs zero=3",
    ),
    "longer warm-up than run": (
        ["schedule.warmup_steps=50"],
        "schedule.warmup_steps=50 must lie between 0 and steps=40",
    ),
    "negative rate": (["optimizer.learning_rate=-1"], "optimizer.learning_rate"),
    "unknown objective": (["objective.kind=guess"], "objective.kind=guess: there are pretrain"),
    "unknown tracker": (["tracker=mlflow"], "`tracker` has no option `mlflow`"),
    "DeepSpeed key that is ours": (["deepspeed.fp16.enabled=true"], "deepspeed.fp16 is set by precision=fp16"),
    "DeepSpeed key that is unknown": (["deepspeed.flops_profler.enabled=true"], "Did you mean `flops_profiler`?"),
    "ZeRO key that is ours": (
        ["deepspeed.zero_optimization.stage=2"],
        "deepspeed.zero_optimization.stage is set by zero=0…3",
    ),
    "ZeRO key that is unknown": (
        ["deepspeed.zero_optimization.overlapcomm=true"],
        "DeepSpeed has no option zero_optimization.overlapcomm",
    ),
    "code in a config": (["model._target_=os.system"], "model._target_"),
    "code at the top": (["_target_=os.system"], "_target_"),
    "code passed through": (["deepspeed._target_=os.system"], "deepspeed._target_"),
    "code nested in what passes through": (["deepspeed.flops_profiler._target_=os.system"], "_target_"),
    "added key": (["+model.extra=1"], "nothing can be added to a configuration"),
    "added code": (["+_target_=os.system"], "nothing can be added to a configuration"),
    "forced key": (["++model.extra=1"], "nothing can be added to a configuration"),
    "forced code": (["++model._target_=os.system"], "nothing can be added to a configuration"),
    "removed key": (["~seed"], "a key can't be removed"),
    "Hydra's settings": (["hydra.run.dir=/tmp/elsewhere"], "Hydra's own settings are ours to set"),
    "sweep": (["seed=1,2"], "several values for one key are a sweep"),
    "run name that leaves the folder": (["run.name=../elsewhere"], "can't be a folder's name"),
    "run name that is absolute": (["run.name=/elsewhere"], "can't be a folder's name"),
    "run name of dots": (["run.name=.."], "can't be a folder's name"),
    "run name with a command": (["run.name='$(id)'"], "can't be a folder's name"),
    "run name like a flag": (["run.name=-rf"], "can't be a folder's name"),
    "required key left out": (["data.path=???"], "`data.path` is required"),
    "configuration folder that is not there": (
        ["--config-dir", "nowhere"],
        "--config-dir nowhere: there is no such folder",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_written(headrace, small_dataset, tmp_path, mistake):
    typed, expected = REFUSED[mistake]
    before = sorted(tmp_path.rglob("*"))
    code, error = headrace("train", f"data.path={small_dataset}", *SETTINGS, *typed, "--dry-run")
    assert code == 2, error
    assert expected in the_line(error)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_verb_is_named_with_the_nearest(headrace):
    code, error = headrace("trian")
    assert code == 2
    assert "there is no verb `trian`. Did you mean `train`?" in the_line(error)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "source=nowhere"], "source=nowhere: there is no such folder"),
        (["generate", "source=.", "temperature=-1"], "temperature"),
        (["verify", "source=nowhere"], "source=nowhere: there is no such folder"),
        (["verify", "source=."], "neither a dataset nor a checkpoint, an export or a run's folder"),
        (["report", "source=nowhere"], "nowhere"),
        (["prepare"], "output"),
        (["prepare", "output=made", "corpus=web"], "`corpus` has no option `web`"),
        (["prepare", "output=made", "corpus=files", "corpus.paths=[absent.txt]"], "absent.txt"),
    ],
)
def test_other_verbs_refuse_in_one_line_too(headrace, tmp_path, arguments, expected):
    before = sorted(tmp_path.rglob("*"))
    code, error = headrace(*arguments)
    assert code == 2, error
    assert expected in the_line(error)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_option_of_ones_own_cannot_name_code(headrace, small_dataset, tmp_path):
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text("_target_: os.system\nname: mine\n")
    code, error = headrace(
        "train", f"data.path={small_dataset}", *SETTINGS, "model=mine", "--config-dir", str(own), "--dry-run"
    )
    assert code == 2
    assert "_target_" in the_line(error)


def swap_two_tokens(dataset: Path) -> None:
    path = dataset / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_tokenizer_that_did_not_make_the_tokens_is_refused(headrace, own_dataset):
    swap_two_tokens(own_dataset)
    code, error = headrace("train", f"data.path={own_dataset}", *SETTINGS, "--dry-run")
    assert code == 2
    assert "is not the tokenizer that the dataset's tokens were made with" in the_line(error)


@pytest.mark.parametrize("name", ["manifest.json", "train-000000.idx", "train-000001.tar"])
def test_a_damaged_dataset_is_named_before_anything_is_started(headrace, own_dataset, tmp_path, name):
    path = own_dataset / name
    path.write_bytes(path.read_bytes()[:-50])
    code, error = headrace("train", f"data.path={own_dataset}", *SETTINGS, "--dry-run")
    assert code in (1, 2)
    assert name in the_line(error) and "headrace verify" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=1", "seed was 0 and is 1"),
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate was 0.003 and is 0.5"),
        ("batch.sequences=16", "batch.sequences was 8 and is 16"),
        ("model.width=32", "model.width was 64 and is 32"),
    ],
)
def test_another_runs_folder_is_never_gone_on_in(headrace, undisturbed, small_dataset, tmp_path, change, expected):
    run = copied(undisturbed(1), tmp_path, 2)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, error = headrace("train", f"data.path={small_dataset}", "run.name=run", *SETTINGS, change, "--dry-run")
    assert code == 2
    assert "belongs to another run" in the_line(error) and expected in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_from_before_a_setting_was_there_goes_on_with_its_default_alone(
    headrace, undisturbed, small_dataset, tmp_path
):
    path = copied(undisturbed(1), tmp_path, 2) / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["ema"], settings["model"]["experts"]
    path.write_text(yaml.safe_dump(settings))
    command = ("train", f"data.path={small_dataset}", "run.name=run", *SETTINGS, "--dry-run")
    assert headrace(*command)[0] == 0
    code, error = headrace(*command, "ema.decay=0.9")
    assert code == 2 and "ema.decay was 0.0 and is 0.9" in the_line(error)


def test_a_run_does_not_go_on_with_other_data_at_the_same_path(headrace, undisturbed, tmp_path):
    from small_data import make_dataset, walking_texts

    copied(undisturbed(1), tmp_path, 2)
    other = make_dataset(tmp_path / "other", walking_texts(80, seed=1))
    _ = headrace("verify", f"source={other}")  # what preparing said is not of interest
    code, error = headrace("train", f"data.path={other}", "run.name=run", *SETTINGS, "--dry-run")
    assert code == 2
    assert "the dataset at data.path has other content" in the_line(error)


def test_a_folder_that_is_no_run_is_left_alone(headrace, small_dataset, tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "thesis.tex").write_text("years of work")
    code, error = headrace("train", f"data.path={small_dataset}", "run.name=run", *SETTINGS, "--dry-run")
    assert code == 2
    assert "exists and is not a run's folder" in the_line(error)
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["thesis.tex"]


def test_the_exit_code_of_the_process_is_the_commands(small_dataset, tmp_path):
    line = assert_one_line(run_command(train_command(small_dataset, "stpes=3"), tmp_path), 2)
    assert re.search(r"unknown key `stpes`\. Did you mean `steps`\?", line)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_under_a_launcher_is_said_once(small_dataset, tmp_path):
    finished = run_command(train_command(small_dataset, "batch.sequences=9", ranks=2), tmp_path)
    assert finished.code != 0
    assert [line for line in finished.headrace_lines if "does not divide by 2 ranks: use 8 or 10" in line]
    assert len(finished.headrace_lines) == 1
    assert list(tmp_path.iterdir()) == []


def test_interrupted_before_it_starts_it_says_so(tmp_path):
    # A shell's background jobs are started with the signal ignored; a foreground one, as here, is not.
    code = (
        "import dataclasses, os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import train.__main__ as train;"
        "verb = dataclasses.replace(train.VERB, run=lambda request: os.kill(os.getpid(), signal.SIGINT));"
        "sys.exit(verb.main([]))"
    )
    finished = run_command(python("-c", code), tmp_path)
    assert finished.code == 130
    assert finished.headrace_lines == ["headrace train: interrupted"]
