"""How many UTF-8 bytes of text each token stands for: what bits per byte are counted in."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from data_pipeline.tokenization.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer, vocabulary_size: int) -> NDArray[np.int64]:
    """Return (vocabulary_size,) bytes of each token; special tokens and rows without a token stand for none.

    Exact for byte-level tokenizers, whose tokens are written with one letter per byte, and for those that fall back to
    bytes as `<0x0A>`.
    """
    lengths = np.zeros(vocabulary_size, dtype=np.int64)
    backend = tokenizer.backend
    special = {id for id, token in backend.get_added_tokens_decoder().items() if token.special}
    byte_level = '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))
    for text, id in backend.get_vocab(with_added_tokens=True).items():
        if id in special or id >= vocabulary_size:
            continue
        if byte_level:
            lengths[id] = len(text)
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            lengths[id] = 1
        else:
            lengths[id] = len(text.replace("▁", " ").encode())
    return lengths
