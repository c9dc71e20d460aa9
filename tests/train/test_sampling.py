"""Text from a model: the draws follow the distribution asked for, and what is shown is whole characters."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.foundation.errors import UserError
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.sampling import SamplingConfig, check_sampling, choose, sample_tokens, stream_text

PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
DRAWS = 4000


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = TransformerConfig(width=32, layers=2, heads=4, key_value_heads=2, hidden_width=48, maximum_length=40)
    config = config.resolve(64)
    model = Transformer(config).eval()
    initialise_weights(model, config, 0)
    for parameter in model.parameters():
        parameter.data *= 2.0
    return model


def sampled(model: Transformer, prompt: list[int], **settings) -> list[int]:
    sampling = SamplingConfig(**settings)
    return list(sample_tokens(model, model.config, prompt, sampling, torch.device("cpu"), torch.float32))


def frequencies(**settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(choose(PROBABILITIES.log(), SamplingConfig(**settings), generator) for _ in range(DRAWS))
    return torch.tensor([drawn[token] / DRAWS for token in range(len(PROBABILITIES))])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0, "top_p": 1.0}, [0.05, 0.4, 0.1, 0.3, 0.15]),
        ({"temperature": 0.5, "top_p": 1.0}, [0.0025, 0.16, 0.01, 0.09, 0.0225]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 1.0}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 1.0, "top_k": 1, "top_p": 1.0}, [0, 1, 0, 0, 0]),
        # 0.4 + 0.3 is not yet 0.75, so the third is needed too.
        ({"temperature": 1.0, "top_p": 0.75}, [0, 0.4, 0, 0.3, 0.15]),
        ({"temperature": 1.0, "top_p": 0.01}, [0, 1, 0, 0, 0]),
        # top_p is of what top_k leaves: 0.4 of 0.85 is under a half.
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.5}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_distribution_that_was_asked_for(settings, expected):
    wanted = torch.tensor(expected) / sum(expected)
    found = frequencies(**settings)
    assert torch.equal(found > 0, wanted > 0), "a token that is left out was drawn"
    assert float((found - wanted).abs().max()) < 0.03


def test_temperature_zero_is_the_likeliest_token_of_the_plain_forward_pass(model):
    prompt = [3, 14, 15, 9]
    written = sampled(model, prompt, tokens=12, temperature=0.0)
    seen = list(prompt)
    for token in written:
        with torch.no_grad():
            assert token == int(model(torch.tensor([seen]))[0, -1].argmax())
        seen.append(token)


def test_the_seed_decides(model):
    first = sampled(model, [1, 2], tokens=30, temperature=1.0, seed=4)
    torch.manual_seed(99)
    assert sampled(model, [1, 2], tokens=30, temperature=1.0, seed=4) == first
    assert sampled(model, [1, 2], tokens=30, temperature=1.0, seed=5) != first


def test_writing_ends_where_the_models_length_ends(model):
    assert len(sampled(model, [1] * 35, tokens=100)) == 5
    with pytest.raises(UserError, match="the prompt has 40 tokens and the model takes 40"):
        sampled(model, [1] * 40, tokens=1)


@pytest.fixture(scope="module")
def tokenizer(small_dataset) -> Tokenizer:
    return load_tokenizer(small_dataset / "tokenizer")


def by_bytes(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a token per UTF-8 byte, so that every border that tokens can have is there."""
    from tokenizers.pre_tokenizers import ByteLevel

    [(letters, _)] = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    ids = [tokenizer.backend.token_to_id(letter) for letter in letters]
    assert None not in ids and tokenizer.decode(ids) == text
    return ids


@pytest.mark.parametrize("text", ["naïve café", "東京 🚣 λόγος", "plain", "🚣🚣"])
def test_streamed_text_is_never_half_a_character(tokenizer, text):
    pieces = list(stream_text(iter(by_bytes(tokenizer, text)), tokenizer, []))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) == len(text), "characters are shown as soon as they are whole"


def test_a_character_that_never_ends_is_shown_as_broken_at_the_end(tokenizer):
    ids = by_bytes(tokenizer, "a東")[:-1]
    pieces = list(stream_text(iter(ids), tokenizer, []))
    assert pieces[0] == "a" and pieces[-1] == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "e t"], "on"),
        ("one twotwo", ["twotwo"], "one "),
        ("aab", ["ab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("nothing here", ["absent", "herein"], "nothing here"),
        ("naïve 東京", ["東"], "naïve "),
        ("", ["x"], ""),
    ],
)
def test_a_stop_text_ends_the_writing_wherever_tokens_divide_it(tokenizer, text, stop, expected):
    pieces = list(stream_text(iter(by_bytes(tokenizer, text) if text else []), tokenizer, stop))
    assert "".join(pieces) == expected
    shown = ""
    for piece in pieces:
        shown += piece
        assert expected.startswith(shown), "part of a stop text was shown"


@given(some.text("ab", max_size=12), some.lists(some.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_texts_cut_where_the_first_of_them_is_complete(text, stop):
    letters = LetterTokenizer()
    shown = "".join(stream_text(iter(map(ord, text)), letters, stop))
    completed = next((n for n in range(len(text) + 1) if any(text[:n].endswith(word) for word in stop)), None)
    if completed is None:
        assert shown == text
    else:
        before = [text[:completed].find(word) for word in stop if word in text[:completed]]
        assert shown == text[: min(before)]


class LetterTokenizer:
    """A token a letter."""

    end_of_document = 0

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_writing_ends_with_the_document(tokenizer):
    ids = [*by_bytes(tokenizer, "one"), tokenizer.end_of_document, *by_bytes(tokenizer, "two")]
    assert "".join(stream_text(iter(ids), tokenizer, [])) == "one"


@pytest.mark.parametrize(
    "settings", [{"tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"stop": [""]}]
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(UserError):
        check_sampling(SamplingConfig(**settings))
