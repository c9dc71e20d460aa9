""".json: an array of records, or records behind one another; parsed one at a time, so its length is no matter."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.readers.input import Damaged, Input, Item, Unfit
from data_pipeline.readers.streams import ENDLESS, READ_BYTES, as_utf8

NO_SPACE = re.compile(r"[^ \t\n\r]")
NEAR_END = 16
"""A mistake so near to the end of what was read may be a word or number that goes on."""


def read_json_array(file: Input) -> Iterator[Item]:
    with file.open() as raw:
        # A byte that is not UTF-8 becomes half of a surrogate pair, so only the record that has it is lost.
        text = io.TextIOWrapper(as_utf8(raw), "utf-8", errors="surrogateescape", newline="")
        values = _Values(text, file.largest_record)
        number = 0
        try:
            for value in values.all():
                number += 1
                yield file.of_record(file, f", record {number}", value, False)
        except Unfit as unfit:
            yield file.unfit(f", record {number + 1}", unfit)
            raise Damaged("what follows can't be told apart") from None


class _Values:
    """Cuts a stream of text into JSON values, with a window on it that grows as far as one value needs."""

    def __init__(self, text: io.TextIOWrapper, limit: int):
        self._text, self._limit = text, limit
        self._window, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def all(self) -> Iterator[Any]:
        """Yield the values of an array, or those that stand behind one another. Raises Unfit."""
        in_array = self._next() == "["
        if in_array:
            self._at += 1
        first = True
        while char := self._next():
            if in_array and char == "]":
                self._at += 1
                break
            if in_array and not first:
                if char != ",":
                    raise Unfit("invalid_json", f"not JSON: {char!a} where a comma should be")
                self._at += 1
                self._next()
            first = False
            yield self._value()
        if in_array and not char:
            raise Unfit("invalid_json", "not JSON: the array is cut short")
        if rest := self._next():
            raise Unfit("invalid_json", f"not JSON: {rest!a} behind the array")

    def _next(self) -> str:
        """Return the next character that is no space, and leave it there; nothing at the end."""
        spaces = 0
        while (found := NO_SPACE.search(self._window, self._at)) is None:
            spaces += len(self._window) - self._at
            if spaces > ENDLESS * self._limit:
                raise Unfit("invalid_json", "not JSON: there are spaces without end")
            self._at = len(self._window)
            if not self._more():
                return ""
        self._at = found.start()
        return found[0]

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except RecursionError:
                raise Unfit("invalid_json", "not JSON: it is nested too deep") from None
            except ValueError as error:
                at = getattr(error, "pos", 0)
                may_go_on = at >= len(self._window) - NEAR_END or str(error).startswith("Unterminated string")
                if not (may_go_on and self._more()):
                    raise Unfit("invalid_json", f"not JSON: {getattr(error, 'msg', error)}") from None
            else:
                # A number at the end of the window may go on.
                if end < len(self._window) or not self._more():
                    self._at = end
                    return value

    def _more(self) -> bool:
        """Make the window twice as long, from the present place on; return whether there was more."""
        kept = self._window[self._at :]
        if len(kept) > self._limit:
            raise Unfit("too_long", f"the record is longer than {self._limit:,} characters")
        chunk = "" if self._ended else self._text.read(max(READ_BYTES, len(kept)))
        self._ended = not chunk
        if chunk:
            self._window, self._at = kept + chunk, 0
        return bool(chunk)
