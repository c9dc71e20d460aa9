"""Several sources, each with settings and a name of its own, from the command line and from a file of the user's."""

from __future__ import annotations

import json
import pickle

import pytest
from generated_corpus import configuration, generated_texts

from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.foundation.errors import UserError
from data_pipeline.prepare import PrepareConfig, main, prepare
from data_pipeline.readers import open_corpus, without_secrets
from data_pipeline.readers.document import Document
from data_pipeline.readers.files import FilesConfig
from data_pipeline.readers.sources import SourceConfig, SourcesConfig


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.jsonl").write_text('{"body": "from the web"}\n')
    (tmp_path / "code.md").write_text("# of code")
    return tmp_path


def documents(config: SourcesConfig) -> list[tuple[str, str]]:
    corpus = open_corpus(config)
    items = [item for unit in corpus.units() for item in corpus.read(unit)]
    return [(item.source, item.text) for item in items if isinstance(item, Document)]


SETTINGS = (
    "corpus=sources",
    "corpus.sources.web.paths=['*.jsonl']",
    "corpus.sources.web.text_field=body",
    "corpus.sources.web.weight=3",
    "corpus.sources.code.paths=['*.md']",
)


def test_sources_are_read_by_name_with_their_own_settings(folder):
    config = configuration("output=x", *SETTINGS).corpus
    assert documents(config) == [("code", "# of code"), ("web", "from the web")]
    assert open_corpus(config).weights() == {"web": 3.0}


def test_a_corpus_can_be_sent_to_another_process(folder):
    corpus = open_corpus(configuration("output=x", *SETTINGS).corpus)
    units = corpus.units()
    sent_corpus, sent_units = pickle.loads(pickle.dumps((corpus, units)))
    assert sent_units == units
    assert [list(sent_corpus.read(unit)) for unit in sent_units] == [list(corpus.read(unit)) for unit in units]


def test_the_order_does_not_depend_on_how_they_are_written(folder):
    one, other = (
        configuration("output=x", *settings).corpus for settings in (SETTINGS, (SETTINGS[0], *SETTINGS[:0:-1]))
    )
    assert list(one.sources) != list(other.sources)
    assert documents(one) == documents(other)


def test_a_file_of_the_users_own_lists_sources_and_the_command_line_adds(folder):
    (folder / "my" / "corpus").mkdir(parents=True)
    (folder / "my" / "corpus" / "mine.yaml").write_text(
        "defaults: [sources, _self_]\n"
        "sources:\n"
        "  web: {paths: ['*.jsonl'], text_field: body, weight: 0.5}\n"
        "  code.md: {paths: ['*.md']}\n"
    )
    overrides = ["output=x", "corpus=mine", "corpus.sources.web.weight=2", "corpus.sources.more.paths=['*.md']"]
    config = compose_configuration("prepare", overrides, PrepareConfig, [folder / "my"]).value.corpus
    assert documents(config) == [("code.md", "# of code"), ("more", "# of code"), ("web", "from the web")]
    assert open_corpus(config).weights() == {"web": 2.0}


def test_a_corpus_of_the_users_own_that_names_no_kind_is_refused(folder):
    (folder / "my" / "corpus").mkdir(parents=True)
    (folder / "my" / "corpus" / "mine.yaml").write_text("sources:\n  web: {paths: ['*.jsonl']}\n")
    config = compose_configuration("prepare", ["output=x", "corpus=mine"], PrepareConfig, [folder / "my"]).value
    with pytest.raises(UserError, match=r"defaults: \[sources, _self_\]"):
        open_corpus(config.corpus)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, r"corpus\.sources is empty"),
        ({"a/b": SourceConfig(["code.md"])}, r"'a/b' can't be a source's name"),
        ({"": SourceConfig(["code.md"])}, r"'' can't be a source's name"),
        ({"a\n": SourceConfig(["code.md"])}, r"'a\\n' can't be a source's name"),
        ({"a": SourceConfig(["code.md"], weight=0)}, r"corpus\.sources\.a\.weight=0 must be more than 0"),
        ({"a": SourceConfig(["code.md"], weight=-1)}, r"corpus\.sources\.a\.weight=-1 must be more than 0"),
        ({"a": SourceConfig(["code.md"], weight=float("nan"))}, r"corpus\.sources\.a\.weight=nan must"),
        ({"a": SourceConfig(["code.md"], weight=float("inf"))}, r"corpus\.sources\.a\.weight=inf must"),
        ({"a": SourceConfig()}, r"corpus\.sources\.a\.paths is empty"),
        ({"a": SourceConfig(["none.md"])}, r"corpus\.sources\.a\.paths: no file matches none\.md"),
        ({"a": SourceConfig(["code.md"], format="word")}, r"corpus\.sources\.a\.format=word"),
        ({"a": SourceConfig(["code.md"], markup="word")}, r"corpus\.sources\.a\.markup=word"),
        ({"a": SourceConfig(["code.md"], largest_document=0)}, r"corpus\.sources\.a\.largest_document=0"),
        (
            {"a": SourceConfig(["web.jsonl"])},
            r"web\.jsonl:1: .*corpus\.sources\.a\.text_field=NAME.*sources\.a\.skip_inv",
        ),
        ({"a": SourceConfig(["ftp://x/a.md"])}, r"the scheme `ftp:` is not read"),
    ],
)
def test_a_mistake_is_named_with_its_key(folder, sources, message):
    with pytest.raises(UserError, match=message):
        documents(SourcesConfig(sources))


def test_passwords_and_signatures_stay_out_of_manifests():
    urls = ["https://me:S3CRET@host/a.txt?token=S3CRET", "b.txt"]
    for config in (FilesConfig(urls), SourcesConfig({"web": SourceConfig(urls)})):
        cleaned = without_secrets(config)
        assert "S3CRET" not in json.dumps(cleaned)
        assert json.dumps(cleaned).count("https://host/a.txt") == 1
    assert urls[0].count("S3CRET") == 2


def test_a_dataset_counts_its_sources(folder, capfd):
    for name, count in (("a", 60), ("b", 30)):
        lines = [json.dumps({"text": f"{name} {text}"}) for text in generated_texts(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    settings = [
        "corpus=sources",
        "corpus.sources.one.paths=[a.jsonl]",
        "corpus.sources.two.paths=[b.jsonl]",
        "output=made",
        "tokenizer.vocabulary_size=300",
        "validation_fraction=0.2",
        "workers=1",
    ]
    manifest = prepare(configuration(*settings))
    assert {name: counts.documents for name, counts in manifest.sources.items()} == {"one": 60, "two": 30}
    assert main([*settings, "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["sources"]["two"]["files"] == 1
    assert main([*settings[:2], "corpus.sources.two.pathz=[b.jsonl]", "output=made"]) == 2
    assert "Did you mean `corpus.sources.two.paths`?" in capfd.readouterr().err
