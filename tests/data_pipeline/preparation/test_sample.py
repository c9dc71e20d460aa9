"""The text that a tokenizer is trained on is the same whoever draws it, and comes from everywhere."""

from __future__ import annotations

import pytest
from generated_corpus import generated_texts

from data_pipeline.parallel import Workers
from data_pipeline.preparation.corpus import Corpus
from data_pipeline.preparation.engine import LocalEngine
from data_pipeline.preparation.parts import write_part
from data_pipeline.preparation.remaining import Remaining
from data_pipeline.preparation.report import Report
from data_pipeline.preparation.sample import PIECE_CHARACTERS, sample_corpus
from data_pipeline.preparation.workplace import workplace
from data_pipeline.readers.document import Document

TEXTS = generated_texts(400)


@pytest.fixture
def sample(tmp_path):
    def draw(texts: list[str], maximum_bytes: int, parts: int = 1) -> list[str]:
        with workplace(tmp_path / f"dataset-{len(list(tmp_path.iterdir()))}", {}) as place:
            corpus = Corpus(place.folder("documents"), [], Report())
            for number in range(parts):
                mine = texts[number::parts]
                name = f"00000-{number:05d}"
                documents = [Document(text, "text", str(key)) for key, text in enumerate(mine)]
                corpus.append(name, "text", write_part(corpus.folder / f"{name}.arrow", documents))
            with Workers(1) as workers:
                return sample_corpus(place, corpus, Remaining(corpus.folder), maximum_bytes, LocalEngine(workers))

    return draw


def test_a_sample_depends_on_the_text_alone(sample):
    drawn = sample(TEXTS, 30_000)
    assert drawn == sample(sorted(TEXTS), 30_000) == sample(TEXTS, 30_000, parts=7)
    assert 28_000 < sum(len(text.encode()) for text in drawn) <= 30_000


def test_it_comes_from_everywhere(sample):
    places = [TEXTS.index(text) for text in sample(TEXTS, 30_000)]
    assert len(set(places)) == len(places)
    assert min(places) < 40 and max(places) > 360


def test_a_small_corpus_is_taken_whole(sample):
    assert sorted(sample(TEXTS, 10**7)) == sorted(TEXTS)


def test_a_long_text_is_taken_in_pieces(sample):
    long = "".join(chr(0x4E00 + number % 500) for number in range(3 * PIECE_CHARACTERS))
    pieces = sample([long, *TEXTS], 10**7)
    assert sum(len(piece) == PIECE_CHARACTERS for piece in pieces) == 3
    assert all(piece in long or piece in TEXTS for piece in pieces)
