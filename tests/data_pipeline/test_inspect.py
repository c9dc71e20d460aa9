"""What is shown of a dataset and of a run's step is what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from generated_corpus import generated_texts, prepare_texts

from data_pipeline.curriculum import RampConfig, plan_segments
from data_pipeline.dataset import DataConfig, open_dataset, open_training
from data_pipeline.foundation.errors import UserError
from data_pipeline.inspect import VERB, InspectConfig, inspect
from data_pipeline.loader import read_steps
from data_pipeline.tokenization.tokenizer import load_tokenizer

TEXTS = generated_texts(200)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare_texts(tmp_path_factory.mktemp("inspect"), TEXTS, "provenance=true")[0]


@pytest.fixture
def run(dataset, tmp_path):
    settings = {
        "seed": 3,
        "steps": 50,
        "data": {"path": str(dataset), "sequence_length": 64, "window": 16},
        "batch": {"sequences": 4, "micro": None, "ramp": {"start": 2, "tokens": 1000, "rises": 1}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def test_counts_and_documents_are_the_datasets(dataset):
    seen = inspect(InspectConfig(str(dataset), documents=5, characters=10**6))
    assert seen["splits"]["train"]["documents"] + seen["splits"]["validation"]["documents"] == 200
    assert seen["sources"]["text"]["documents"] == 200
    assert len(seen["documents"]) == 5
    for document in seen["documents"]:
        assert document["text"].removesuffix("<|endoftext|>") in TEXTS


def test_a_document_says_where_it_came_from(dataset):
    for document in inspect(InspectConfig(str(dataset), documents=5, characters=10**6))["documents"]:
        path, line = document["key"].rsplit(":", 1)
        with open(path, encoding="utf-8") as file:
            text = json.loads(file.readlines()[int(line) - 1])["text"]
        assert document["text"].startswith(text)


def test_a_step_shows_what_the_run_reads(run, dataset):
    tokenizer = load_tokenizer(dataset / "tokenizer")
    data = open_dataset(DataConfig(str(dataset), 64, window=16))
    sequences = open_training(data, 3, plan_segments(64, 4, batch_ramp=RampConfig(2, 1000, 1)), 50)
    for step in (1, 20):
        numbers = sequences.order.steps.numbers(step - 1)
        rows = read_steps(sequences, [numbers], False).tokens
        seen = inspect(InspectConfig(str(run), step=step, characters=10**6))["sequences"]
        assert [view["number"] for view in seen] == list(numbers)
        assert len(seen) == (2 if step == 1 else 4)
        for view, row in zip(seen, rows):
            assert sum(each["stop"] - each["first"] for each in view["excerpts"]) == 65
            # A character may be cut in two between documents' excerpts, so bytes that are no text may differ.
            text = "".join(each["text"] for each in view["excerpts"]).replace("\ufffd", "")
            assert text == tokenizer.decode(row.tolist()).replace("\ufffd", "")
        (one,) = inspect(InspectConfig(str(run), step=step, sequence=1, characters=10**6))["sequences"]
        assert one == seen[1]
    assert np.unique([view["number"] for view in seen]).size == 4


def test_the_command_prints_it(run, dataset, capsys):
    assert VERB.main([f"source={dataset}"]) == 0
    assert "block 0, document 0" in capsys.readouterr().out
    assert VERB.main([f"source={run}", "step=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 1}, "is a dataset; what is read in a step is a run's"),
        ({"split": "test"}, "no split `test`"),
    ],
)
def test_what_a_dataset_does_not_have_is_named(dataset, settings, message):
    with pytest.raises(UserError, match=message):
        inspect(InspectConfig(str(dataset), **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0}, "steps are counted from 1"),
        ({"step": 1, "sequence": 2}, r"sequence=2: step 1 has 2, counted from 0"),
    ],
)
def test_what_a_run_does_not_have_is_named(run, settings, message):
    with pytest.raises(UserError, match=message):
        inspect(InspectConfig(str(run), **settings))
