"""Answers in OpenAI's form: whole, or as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from train.serve.engine import Token
from train.serve.requests import Ask

Piece = Callable[[int], str]
"""From a token's id to its text."""


class Form:
    """The objects of one request's answer.

    Args:
        piece: gives the text of a token.
        raw: gives its bytes.
    """

    def __init__(self, ask: Ask, piece: Piece, raw: Callable[[int], bytes]):
        self._ask, self._piece, self._raw = ask, piece, raw
        self._chat = ask.messages is not None
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """Return the answer to a request that isn't streamed."""
        return self._object("chat.completion" if self._chat else "text_completion", choices) | {"usage": usage}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        """Return one chunk of a stream; the last one has the usage and no choice."""
        chunk = self._object("chat.completion.chunk" if self._chat else "text_completion", choices)
        return chunk | ({"usage": usage} if self._ask.usage else {})

    def choice(self, index: int, text: str, tokens: list[Token], reason: str | None, offset: int = 0) -> dict[str, Any]:
        """Return a choice, whole.

        Args:
            offset: of the first token's text in the choice's.
        """
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": self.logprobs(tokens, offset)}
        if self._chat:
            return choice | {"message": {"role": "assistant", "content": text, "refusal": None}}
        return choice | {"text": text}

    def delta(
        self, index: int, text: str | None, tokens: list[Token], reason: str | None, offset: int = 0, **more: Any
    ) -> dict[str, Any]:
        """Return a choice's next part."""
        logprobs = self.logprobs(tokens, offset) if tokens else None
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": logprobs}
        if self._chat:
            return choice | {"delta": more | ({} if text is None else {"content": text})}
        return choice | {"text": text or ""}

    def logprobs(self, tokens: list[Token], offset: int) -> dict[str, Any] | None:
        """Return log-probabilities in the endpoint's dialect, None where they weren't asked for."""
        if self._ask.logprobs is None:
            return None
        if self._chat:
            content = [
                self._entry(token.id, token.logprob)
                | {"top_logprobs": [self._entry(id_, value) for id_, value in token.likeliest]}
                for token in tokens
            ]
            return {"content": content, "refusal": None}
        pieces, offsets = [self._piece(token.id) for token in tokens], []
        for piece in pieces:
            offsets.append(offset)
            offset += len(piece)
        top = [
            None if token.logprob is None else {self._piece(id_): value for id_, value in reversed(token.likeliest)}
            for token in tokens
        ]
        return {
            "tokens": pieces,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": top if self._ask.logprobs else None,
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": self._piece(token), "logprob": logprob, "bytes": list(self._raw(token))}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._ask.model, "choices": choices,
                "system_fingerprint": None}  # fmt: skip


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
