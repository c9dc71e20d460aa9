import pytest
from duplicate_runs import duplicates_of, write_parts

from data_pipeline.deduplication.exact import ExactDuplicatesConfig
from data_pipeline.deduplication.minhash import NearDuplicatesConfig
from data_pipeline.deduplication.signatures import DuplicatesConfig, count_documents, write_signatures
from data_pipeline.foundation.errors import Failure

CONFIG = DuplicatesConfig()


def test_a_file_of_signatures_has_some_270_bytes_a_document_and_is_always_the_same(tmp_path):
    texts = [f"text number {number} of a thousand" for number in range(1000)]
    for name in ("one", "other"):
        write_signatures(tmp_path / name, texts, CONFIG)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert (tmp_path / "one").stat().st_size == pytest.approx(276 * 1000, abs=1000)
    assert count_documents(tmp_path / "one", CONFIG) == 1000


@pytest.mark.parametrize(
    "other",
    [
        DuplicatesConfig(near=NearDuplicatesConfig(permutations=128)),
        DuplicatesConfig(near=NearDuplicatesConfig(ngram=3)),
        DuplicatesConfig(near=NearDuplicatesConfig(enabled=False)),
        DuplicatesConfig(exact=ExactDuplicatesConfig(enabled=False)),
    ],
)
def test_signatures_made_with_other_settings_are_refused(tmp_path, other):
    parts = write_parts(tmp_path, ["a text"], CONFIG)
    with pytest.raises(Failure, match=r"000\.signatures holds signatures made with other settings; remove it"):
        duplicates_of(parts, other)


def test_settings_that_come_later_fit_the_same_signatures(tmp_path):
    parts = write_parts(tmp_path, ["a text"], CONFIG)
    later = DuplicatesConfig(near=NearDuplicatesConfig(threshold=0.6, bands=30, rows=4), memory_mb=16)
    assert duplicates_of(parts, later).stays.all()


def test_damaged_signatures_are_named(tmp_path):
    parts = write_parts(tmp_path, ["a text", "b text"], CONFIG)
    content = parts[0].signatures.read_bytes()
    parts[0].signatures.write_bytes(content[:-10])
    with pytest.raises(Failure, match=r"000\.signatures can't be read as signatures: .*; remove it"):
        duplicates_of(parts, CONFIG)
    parts[0].signatures.unlink()
    with pytest.raises(Failure, match=r"000\.signatures can't be read as signatures"):
        duplicates_of(parts, CONFIG)
