"""A tokenizer of another kind gives the ids that its own library gives, or is refused."""

from __future__ import annotations

import base64
import io

import pytest
import sentencepiece
import tiktoken
from generated_corpus import configuration, generated_texts, prepare_texts, write_json_lines
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers.convert_slow_tokenizer import bytes_to_unicode

from data_pipeline.foundation.errors import UserError
from data_pipeline.prepare import prepare
from data_pipeline.tokenization.bpe import BpeConfig, train_tokenizer
from data_pipeline.tokenization.tiktoken_file import PATTERNS
from data_pipeline.tokenization.tokenizer import load_tokenizer
from data_pipeline.tokenization.tokenizer_file import TokenizerFileConfig, open_tokenizer

TEXTS = generated_texts(300)
SPECIAL = ["<|endoftext|>", "<|pad|>"]


def as_bytes(written: str) -> bytes:
    return bytes(BYTE_OF[letter] for letter in written)


BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


@pytest.fixture(scope="module", params=PATTERNS)
def tiktoken_pair(request, tmp_path_factory):
    """A rank file, and tiktoken's own encoding of it."""
    path = tmp_path_factory.mktemp("tiktoken") / "ranks.tiktoken"
    trained = train_tokenizer(TEXTS, BpeConfig(401)).backend
    written = [trained.id_to_token(number) for number in range(1, 401)]
    ranks = {token: rank for rank, token in enumerate(sorted(map(as_bytes, written), key=lambda each: len(each) > 1))}
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    special = {name: 400 + number for number, name in enumerate(SPECIAL)}
    theirs = tiktoken.Encoding("t", pat_str=PATTERNS[request.param], mergeable_ranks=ranks, special_tokens=special)
    return open_tokenizer(TokenizerFileConfig(str(path), None, request.param, SPECIAL)), theirs


def test_a_tiktoken_file_gives_tiktokens_ids(tiktoken_pair):
    ours, theirs = tiktoken_pair
    assert (ours.end_of_document, ours.vocabulary_size) == (theirs.eot_token, theirs.n_vocab) == (400, 402)

    @settings(max_examples=150)
    @given(some.one_of(some.text(), some.sampled_from(TEXTS)))
    def same(text):
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.decode(theirs.encode_ordinary(text)) == text

    same()


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True,
         "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
        {"model_type": "bpe", "byte_fallback": True},
        {"model_type": "unigram"},
        {"model_type": "unigram", "byte_fallback": True, "add_dummy_prefix": False},
    ],
    ids=["like Llama 2", "bpe", "like T5", "like Gemma"],
)  # fmt: skip
def test_a_sentencepiece_model_gives_sentencepieces_ids(tmp_path, more):
    model = io.BytesIO()
    lines = [line for text in TEXTS for line in text.splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=500, hard_vocab_limit=False, minloglevel=2, **more
    )
    path = tmp_path / "spiece.model"
    path.write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = open_tokenizer(TokenizerFileConfig(str(path)))
    assert (ours.end_of_document, ours.vocabulary_size) == (theirs.eos_id(), len(theirs))
    for text in [*TEXTS[:100], "Straße 12345\tand\n\n more", "水と λόγος 🚣", "  "]:
        assert ours.encode(text) == theirs.encode(text)
        if theirs.unk_id() not in theirs.encode(text):
            assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


def test_a_dataset_is_prepared_with_a_tiktoken_file(tiktoken_pair, tmp_path):
    ours, _ = tiktoken_pair
    ours.save(tmp_path / "tokenizer")
    output = tmp_path / "dataset"
    corpus = write_json_lines(tmp_path / "corpus.jsonl", TEXTS)
    chosen = ["tokenizer=file", f"tokenizer.path='{tmp_path / 'tokenizer'}'", "validation_fraction=0.1", "workers=1"]
    prepare(configuration("corpus=files", f"corpus.paths=['{corpus}']", f"output={output}", *chosen))
    assert load_tokenizer(output / "tokenizer").fingerprint == ours.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tiktoken", b"aGk= 0\n", r"is a tiktoken file, which says neither"),
        (
            "b.tiktoken",
            b"aGk= 0\naGk= 1\n",
            r"b\.tiktoken:2: not a token in base64 and its rank, or one that came before",
        ),
        ("c.tiktoken", b"aGk= 0\n", r"256 single bytes are missing"),
        ("d.model", b"\x00\x01junk", r"d\.model is not a SentencePiece model"),
        ("e.vocab", b"junk", r"e\.vocab: can't tell what kind of tokenizer this is"),
        ("f.json", b"junk", r"f\.json is not a Hugging Face tokenizer\.json"),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with_pattern = {"pattern": "gpt2", "special_tokens": SPECIAL} if name[0] in "bc" else {}
    with pytest.raises(UserError, match=message):
        open_tokenizer(TokenizerFileConfig(str(tmp_path / name), **with_pattern))


def test_a_pattern_that_is_none_is_named(tmp_path):
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    (tmp_path / "a.tiktoken").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"tokenizer\.pattern=\(\[ is neither a regular expression nor one of gpt2"):
        open_tokenizer(TokenizerFileConfig(str(tmp_path / "a.tiktoken"), None, "([", SPECIAL))


def test_a_model_that_can_not_be_taken_over_exactly_is_refused(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=300, hard_vocab_limit=False, minloglevel=2,
        model_type="bpe", treat_whitespace_as_suffix=True,
    )  # fmt: skip
    (tmp_path / "odd.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match=r"odd\.model can't be taken over exactly"):
        open_tokenizer(TokenizerFileConfig(str(tmp_path / "odd.model")))


def test_a_trained_tokenizer_is_taken_back(tmp_path):
    trained = train_tokenizer(TEXTS, BpeConfig(400))
    trained.save(tmp_path / "t")
    assert open_tokenizer(TokenizerFileConfig(str(tmp_path / "t"))).fingerprint == trained.fingerprint
    _, manifest = prepare_texts(tmp_path, TEXTS)
    assert manifest.vocabulary_size == 400
