"""SentencePiece's models, taken over as a Hugging Face tokenizer that has to prove itself.

The same model can be asked for ids in ways that another library expresses differently. So what is taken over is
compared with SentencePiece itself on text that has all that is known to go wrong, and refused where any id differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError

if TYPE_CHECKING:
    import tokenizers

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "▁"
PROOF = (
    "The quick brown fox jumps over 13 lazy dogs, 1,234.56 times; it's naïve.",
    "  two  spaces\n\n\ttabs and\r\nlines   ",
    "Größe, façade, łódź, Ωμέγα, Привет, שלום, مرحبا, नमस्ते, สวัสดี",
    "我们今天去学校。東京は日本の首都です。한국어 문장",
    "ﬁ ligature, ①②, ｆｕｌｌ, e\u0301 and é, 🚣🏽‍♀️ \u200b\u00a0|",
    "def f(x):\n    return {'a': [x**2, None]}  # comment\n",
    "",
    " ",
)


def load_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """Take over a SentencePiece model.

    Raises:
        UserError: SentencePiece isn't installed, the file is no model of a kind that is known, or the result gives
            other ids.
    """
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as model_format
    except ImportError:
        raise UserError(f"{path} needs SentencePiece: pip install headrace[sentencepiece]") from None
    original = sentencepiece.SentencePieceProcessor()
    description = model_format.ModelProto()  # type: ignore[attr-defined]
    try:
        content = path.read_bytes()
        original.LoadFromSerializedProto(content)
        description.ParseFromString(content)
    except Exception as error:  # it raises several kinds
        raise UserError(f"{path} is not a SentencePiece model: {' '.join(str(error).split())}") from None
    backend = _taken_over(path, description)
    for text in PROOF:
        ours, theirs = backend.encode(text, add_special_tokens=False).ids, original.EncodeAsIds(text)
        if ours != theirs:
            raise UserError(
                f"{path} can't be taken over exactly: {text!r} gives {ours} instead of {theirs}. Convert it to a "
                "tokenizer.json by the library that it comes with"
            )
    return backend


def _taken_over(path: Path, description: Any) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import AddedToken, decoders, models

    pieces = [(piece.piece, piece.score) for piece in description.pieces]
    kinds = [piece.type for piece in description.pieces]
    unknown, bytes_too = kinds.index(UNKNOWN), description.trainer_spec.byte_fallback
    if description.trainer_spec.model_type == UNIGRAM:
        model: Any = models.Unigram(pieces, unknown, bytes_too)
    elif description.trainer_spec.model_type == BPE:
        mergeable = {
            piece: number
            for number, ((piece, _), kind) in enumerate(zip(pieces, kinds))
            if kind in (NORMAL, USER_DEFINED)
        }
        model = models.BPE(
            {piece: number for number, (piece, _) in enumerate(pieces)},
            _merges(pieces, mergeable),
            unk_token=pieces[unknown][0],
            fuse_unk=True,
            byte_fallback=bytes_too,
        )
    else:
        raise UserError(f"{path}: only unigram and BPE models can be taken over, and this is neither")
    backend = tokenizers.Tokenizer(model)
    prefix = description.normalizer_spec.add_dummy_prefix
    backend.normalizer = _normalizer(description.normalizer_spec)
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    special = [piece for (piece, _), kind in zip(pieces, kinds) if kind in (UNKNOWN, CONTROL)]
    backend.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    own = [piece for (piece, _), kind in zip(pieces, kinds) if kind == USER_DEFINED]
    backend.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in own])
    return backend


def _merges(pieces: list[tuple[str, float]], mergeable: dict[str, int]) -> list[tuple[str, str]]:
    """Return what may be merged, the highest score first."""
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, number in mergeable.items():
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in mergeable and right in mergeable:
                merges.append((-pieces[number][1], mergeable[left], mergeable[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _normalizer(settings: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if settings.precompiled_charsmap:
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if settings.remove_extra_whitespaces:
        steps += [normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    if settings.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
