"""A cleaned dataset holds what the stages let through, and its report and page tell what they did, by example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from generated_corpus import configuration, generated_texts, write_json_lines

from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.storage.dataset_files import LocalFiles
from data_pipeline.store import Store
from data_pipeline.tokenization.tokenizer import load_tokenizer

PROSE = (
    "The mill stands where the river leaves the valley, and its wheel has turned there for two hundred years. "
    "In the spring the water is high and the miller works through the night. In the summer it is low, "
    "so that he mends the gates and cuts the reeds along the channel with his neighbours. "
)
GOOD = [PROSE + f"This is what the letter number {number} of the old miller says." for number in range(40)]
CHINESE = [
    f"磨坊坐落在河流离开山谷的地方，水车在那里转动了两百年。春天水位高，磨坊主整夜工作。第{number}封信是这样说的。"
    for number in range(20)
]
BAD = {
    "mojibake": PROSE.replace("neighbours", "neighbours at the cafÃ©") + "A word that was decoded wrongly is mended.",
    "mail": PROSE + "Write to the miller at miller@river-valley.org or call +44 20 7946 0958.",
    "short": "Too short.",
    "page": "<html><body><nav>Home | About</nav><article><h1>The mill</h1>"
    f"<p>{PROSE}</p><p>{PROSE}On a page.</p></article></body></html>",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("cleaned")
    english = [*GOOD, BAD["mojibake"], BAD["mail"], BAD["short"], GOOD[3], GOOD[5] + " Indeed."]
    write_json_lines(folder / "english.jsonl", english)
    write_json_lines(folder / "chinese.jsonl", CHINESE)
    (folder / "page.html").write_text(BAD["page"])
    manifest = prepare(
        configuration(
            "corpus=sources",
            f"corpus.sources.english.paths=['{folder}/english.jsonl','{folder}/page.html']",
            f"corpus.sources.chinese.paths=['{folder}/chinese.jsonl']",
            "corpus.sources.chinese.weight=3",
            "corpus.sources.english.weight=1",
            "cleaning=standard",
            "cleaning.quality.minimum_words=10",
            "cleaning.duplicates.near.threshold=0.9",
            f"output='{folder / 'dataset'}'",
            "tokenizer.vocabulary_size=500",
            "validation_fraction=0.1",
            "workers=1",
        )
    )
    return folder / "dataset", manifest


def texts(folder: Path, manifest: Manifest) -> dict[str, list[str]]:
    tokenizer = load_tokenizer(folder / "tokenizer")
    found: dict[str, list[str]] = {}
    for split in ("train", "validation"):
        store = Store(LocalFiles(folder), manifest, split)
        for number, record in enumerate(store.shards):
            for block in range(record.blocks):
                documents = [tokenizer.decode(each[:-1].tolist()) for each in store.block(number, block)]
                found.setdefault(record.source, []).extend(documents)
    return found


def test_the_dataset_has_what_the_stages_let_through(prepared):
    found = texts(*prepared)
    assert set(GOOD) <= set(found["english"])
    assert sorted(found["chinese"]) == sorted(CHINESE)
    assert len(found["english"]) == len(GOOD) + 3  # and the mended, the masked and the page
    assert any("neighbours at the café" in text for text in found["english"])
    assert any("[EMAIL]" in text and "[PHONE]" in text for text in found["english"])
    assert not any("miller@" in text or "<p>" in text or "Home | About" in text for text in found["english"])


def test_the_report_counts_what_every_stage_did(prepared):
    stages = prepared[1].stages
    assert list(stages) == ["reading", "extraction", "repair", "language", "quality", "privacy", "duplicates"]
    english = {name: counts["english"] for name, counts in stages.items()}
    assert english["reading"]["given"]["documents"] == 46
    assert english["extraction"]["changed"] == 1
    assert english["repair"]["changes"]["mojibake_lines"] == 1
    assert english["quality"]["dropped"] == {"too_few_words": {"documents": 1, "bytes": len("Too short.")}}
    assert english["privacy"]["changes"] == {"email": 1, "phone": 1}
    dropped = english["duplicates"]["dropped"]
    assert (dropped["exact"]["documents"], dropped["near"]["documents"]) == (1, 1)
    for name, following in zip(list(english)[:-1], list(english)[1:]):
        assert english[name]["given"]["documents"] == english[following]["taken"]["documents"]
    kept = english["duplicates"]["given"]
    assert (kept["documents"], kept["bytes"]) == (
        prepared[1].sources["english"].documents,
        prepared[1].sources["english"].bytes,
    )


def test_weights_and_languages_are_recorded(prepared):
    folder, manifest = prepared
    assert {name: counts.weight for name, counts in manifest.sources.items()} == {"chinese": 3.0, "english": 1.0}
    page = (folder / "dataset.html").read_text(encoding="utf-8")
    assert "<td>en</td>" in page and "<td>zh</td>" in page


def test_the_page_shows_examples_and_nothing_private(prepared):
    page = (prepared[0] / "dataset.html").read_text(encoding="utf-8")
    assert "Too short." in page
    assert "cafÃ©" in page and "café" in page
    assert GOOD[3][:60] in page  # a duplicate, beside what it repeats
    assert "miller@" not in page and "7946" not in page and "[EMAIL]" in page


def test_what_comes_from_a_document_can_not_become_markup(tmp_path):
    hostile = [PROSE + f"<script>alert({number})</script><img src=x onerror=alert(1)>" for number in range(30)]
    prepare(
        configuration(
            "corpus=files",
            f"corpus.paths=['{write_json_lines(tmp_path / 'a.jsonl', hostile)}']",
            f"output='{tmp_path / 'dataset'}'",
            "tokenizer.vocabulary_size=400",
            "validation_fraction=0.2",
            "workers=1",
        )
    )
    page = (tmp_path / "dataset" / "dataset.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_with_another_cleaning_it_is_another_dataset(tmp_path):
    corpus = write_json_lines(tmp_path / "a.jsonl", generated_texts(60))
    fingerprints = []
    for cleaning in ("none", "standard"):
        settings = (f"cleaning={cleaning}", "tokenizer.vocabulary_size=300", "validation_fraction=0.2", "workers=1")
        output = f"output='{tmp_path / cleaning}'"
        manifest = prepare(configuration("corpus=files", f"corpus.paths=['{corpus}']", output, *settings))
        fingerprints.append(json.dumps(manifest.settings["cleaning"], sort_keys=True))
    assert fingerprints[0] != fingerprints[1]
