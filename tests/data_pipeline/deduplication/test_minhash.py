import numpy as np
import pytest
from edited_texts import CHINESE, ENGLISH, texts_with_edited_copies
from omegaconf import OmegaConf

from benchmarks.plain_shingles import similar_pairs
from data_pipeline.deduplication import minhash
from data_pipeline.deduplication.minhash import NearDuplicatesConfig, sign
from data_pipeline.deduplication.signatures import DuplicatesConfig
from data_pipeline.foundation.errors import UserError


def agreement(signatures: np.ndarray, one: int, other: int) -> float:
    return float((signatures[one] == signatures[other]).mean())


@pytest.mark.parametrize("script", [ENGLISH, CHINESE])
@pytest.mark.parametrize("permutations", [128, 256, 300])
def test_slots_agree_as_often_as_jaccard_similarity_and_chance_say(script, permutations):
    texts = texts_with_edited_copies(script, 40, seed=1)
    signatures, _ = sign(texts, NearDuplicatesConfig(permutations=permutations))
    deviations = []
    for (one, other), similarity in similar_pairs(texts, 5).items():
        expected = similarity + (1 - similarity) / 256
        error = np.sqrt(expected * (1 - expected) / permutations)
        deviations.append((agreement(signatures, one, other) - expected) / max(error, 1e-9))
    assert len(deviations) >= 400
    assert np.abs(deviations).max() < 5
    assert abs(np.mean(deviations)) < 4 / np.sqrt(len(texts))
    assert np.std(deviations) < 1.15


def test_a_signature_is_a_function_of_the_set_of_shingles_alone(monkeypatch):
    texts = texts_with_edited_copies(ENGLISH, 20, seed=2)
    together, counts = sign(texts, NearDuplicatesConfig())
    monkeypatch.setattr(minhash, "BATCH_CHARACTERS", 700)
    alone, counts_alone = sign(texts, NearDuplicatesConfig())
    assert np.array_equal(together, alone) and np.array_equal(counts, counts_alone)
    again, _ = sign([texts[0] * 3, texts[0]], NearDuplicatesConfig(ngram=1))
    assert np.array_equal(again[0], again[1])


@pytest.mark.parametrize("permutations", [64, 256, 300])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.8, 0.85, 1.0])
def test_as_many_slots_must_agree_as_make_the_estimate_reach_the_threshold(threshold, permutations):
    least = NearDuplicatesConfig(threshold=threshold, permutations=permutations).matching().agreement

    def estimate(agreeing: int) -> float:
        return (agreeing / permutations - 1 / 256) / (1 - 1 / 256)

    assert estimate(least) >= threshold - 1e-9
    assert estimate(least - 1) < threshold


def test_texts_without_words_have_no_shingles():
    _, counts = sign(["?!", "", "one", "one two three four five six"], NearDuplicatesConfig())
    assert counts.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 128), (0.7, 256), (0.8, 256), (0.9, 128), (1.0, 64)])
def test_bands_derived_from_the_threshold_find_nine_tenths_at_it_and_few_pairs_far_below(threshold, permutations):
    matching = NearDuplicatesConfig(threshold=threshold, permutations=permutations).matching()

    def probability(similarity: float) -> float:
        return 1 - (1 - similarity**matching.rows) ** matching.bands

    assert matching.bands * matching.rows <= permutations // 2
    assert probability(threshold) >= 0.9
    assert probability(min(threshold + 0.1, 1)) >= 0.95
    assert probability(threshold / 2) < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "near.threshold=0.0 must lie above 0"),
        ({"threshold": 1.5}, "near.threshold=1.5 must lie above 0 and be at most 1"),
        ({"permutations": 0}, "near.permutations=0 must be from 1"),
        ({"permutations": 1}, "near.permutations=1 are too few to find pairs .* threshold=0.8"),
        ({"ngram": 0}, "near.ngram=0 must be at least 1"),
        ({"bands": 4}, "near.bands and rows go together"),
        ({"bands": 0, "rows": 4}, "near.bands=0 and rows=4 must be at least 1"),
        ({"bands": 40, "rows": 8}, "near.bands=40 × rows=8 are more than permutations=256"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DuplicatesConfig(near=NearDuplicatesConfig(**settings)).check()


def test_the_memory_has_a_lower_limit():
    with pytest.raises(UserError, match="memory_mb=1 must be at least 16"):
        DuplicatesConfig(memory_mb=1).check()


def test_the_settings_are_a_schema_for_configurations():
    composed = OmegaConf.merge(OmegaConf.structured(DuplicatesConfig), {"near": {"bands": 20, "rows": 6}})
    config = OmegaConf.to_object(composed)
    assert isinstance(config, DuplicatesConfig)
    config.check()
    assert (config.near.matching().bands, config.near.matching().rows) == (20, 6)
