"""Text as its tokens come, of one answer: never half a character, never any of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.tokenization.tokenizer import Tokenizer
from train.sampling import held_back

BEFORE = 8
"""Tokens of the prompt that are decoded with the first ones: some tokenizers write a text's first token otherwise."""
UNFINISHED = 8
"""Tokens after which bytes that make no character are shown as broken: no character has more bytes than four."""


class TextStream:
    """Takes tokens, gives the text that is sure.

    Args:
        prompt: ids before the first token.
        stop: texts that end the answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: list[str]):
        self._tokenizer, self._stop = tokenizer, stop
        self._ids = list(prompt[-BEFORE:])
        self._from, self._read = 0, len(self._ids)
        self._text = ""
        self._shown = 0
        self._longest = max(map(len, stop), default=0)
        self.stopped = False

    def add(self, token: int) -> str:
        """Take a token; return what can be shown. Behind a stop text nothing more comes: `stopped` is True."""
        self._ids.append(token)
        self._decode(len(self._ids) - self._read < UNFINISHED)
        return self._sure()

    def end(self) -> str:
        """Return what was held back."""
        self._decode(False)
        text = self._sure()
        if not self.stopped:
            text, self._shown = text + self._text[self._shown :], len(self._text)
        return text

    def _decode(self, waits: bool) -> None:
        if self._read == len(self._ids):
            return
        whole, before = (self._tokenizer.decode(self._ids[self._from : to]) for to in (None, self._read))
        if waits and whole.endswith("�"):
            return
        self._text += whole[len(before) :]
        self._ids = self._ids[self._read :]
        self._from, self._read = 0, len(self._ids)

    def _sure(self) -> str:
        if self.stopped:
            return ""
        first = max(0, self._shown - self._longest)
        ends = [at for at in (self._text.find(word, first) for word in self._stop) if at >= 0]
        if ends:
            self.stopped, end = True, max(self._shown, min(ends))
        else:
            begun = held_back(self._text[first:], self._stop) if self._stop else 0
            end = max(self._shown, len(self._text) - begun)
        text, self._shown = self._text[self._shown : end], end
        return text
