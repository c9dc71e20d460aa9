"""What follows the prompts of a request, from the engine's thread to the event loop, as text."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from data_pipeline.tokenization.tokenizer import Tokenizer
from train.sampling import SamplingConfig
from train.serve.engine import Engine, QueueFull, Sequence, Token
from train.serve.errors import RequestError, bad
from train.serve.requests import Ask
from train.serve.text_stream import TextStream

ENDINGS = {
    "timeout": (504, "the request took longer than the service gives it", "timeout"),
    "cancelled": (503, "the service is stopping", "stopping"),
    "failed": (500, "the engine has failed; see the service's log", "engine_failed"),
}


@dataclass
class Part:
    """What is new of one choice.

    Args:
        tokens: behind the text; those of an echoed prompt have no text of their own.
        reason: why it ended, `stop` or `length`; None while it goes on.
    """

    choice: int
    text: str
    tokens: list[Token]
    reason: str | None = None


@dataclass
class Writer:
    """Turns requests into sequences of an engine.

    Args:
        timeout: seconds for a request.
        most: tokens of an answer where a request doesn't say; None as many as fit.
    """

    engine: Engine
    tokenizer: Tokenizer
    timeout: float
    most: int | None = None
    pieces: dict[int, str] = field(default_factory=dict)

    def room(self, prompt: Many[int], tokens: int | None) -> int:
        """Return how many tokens may follow a prompt.

        Raises:
            RequestError: the context doesn't hold what is asked for.
        """
        context = self.engine.context
        least = 1 if tokens is None else tokens
        if len(prompt) + least > context:
            message = (
                f"the context is {context} tokens; the prompt has {len(prompt)} and {least} are to follow: "
                "shorten the messages or ask for fewer"
            )
            raise RequestError(400, message, "messages", "context_length_exceeded")
        return tokens if tokens is not None else min(context - len(prompt), self.most or context)

    async def write(self, ask: Ask, prompts: list[list[int]]) -> AsyncGenerator[Part, None]:
        """Yield the parts of all choices as they come. Whoever leaves early frees the slots at once.

        Raises:
            RequestError: no room in context or queue, too slow, or the engine failed.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Token | str]]()

        def tell(choice: int, event: Token | str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, (choice, event))

        sequences: list[Sequence] = []
        streams: list[TextStream] = []
        rooms = [self.room(prompt, ask.tokens) for prompt in prompts]
        for index in range(len(prompts) * ask.count):
            prompt = prompts[index // ask.count]
            sequences.append(
                Sequence(
                    prompt, SamplingConfig(0, ask.temperature, ask.top_k, ask.top_p, ask.seed + index % ask.count),
                    rooms[index // ask.count], functools.partial(tell, index), ask.logprobs,
                    ask.echo and ask.logprobs is not None, time.monotonic() + self.timeout, ask.bias, ask.presence,
                    ask.frequency,
                )
            )  # fmt: skip
            streams.append(TextStream(self.tokenizer, prompt, ask.stop))
        self.submit(sequences)
        going = len(sequences)
        kept: list[list[Token]] = [[] for _ in sequences]
        echoed = [len(each.prompt) if each.of_prompt else 0 for each in sequences]
        try:
            while going:
                choice, event = await events.get()
                stream = streams[choice]
                if stream.stopped:
                    continue
                if isinstance(event, Token):
                    kept[choice].append(event)
                    if echoed[choice]:
                        echoed[choice] -= 1
                        continue
                    text = stream.add(event.id)
                    if stream.stopped:
                        self.engine.cancel([sequences[choice]])
                    if text or stream.stopped:
                        yield Part(choice, text, kept[choice], "stop" if stream.stopped else None)
                        kept[choice] = []
                        going -= stream.stopped
                    continue
                if event in ENDINGS:
                    status, message, code = ENDINGS[event]
                    raise RequestError(status, message, code=code)
                text = stream.end()
                yield Part(choice, text, kept[choice], "stop" if stream.stopped else event)
                stream.stopped = True
                going -= 1
        finally:
            if going:
                self.engine.cancel(sequences)

    def submit(self, sequences: list[Sequence]) -> None:
        """Hand sequences to the engine. Raises RequestError: it has no room for them."""
        try:
            self.engine.submit(sequences)
        except QueueFull:
            raise RequestError(429, "too many requests wait already; try again soon", code="queue_full") from None

    def piece(self, token: int) -> str:
        """Return a token's text, by name if it is special; half a character is broken."""
        if token not in self.pieces:
            self.pieces[token] = self.tokenizer.decode([token])
        return self.pieces[token]

    def raw(self, token: int) -> bytes:
        """Return a token's bytes; of byte-level tokenizers also those that make no whole character."""
        text = self.tokenizer.backend.id_to_token(token) or ""
        table = byte_characters()
        if text and all(character in table for character in text):
            return bytes(table[character] for character in text)
        return self.piece(token).encode()


@functools.cache
def byte_characters() -> dict[str, int]:
    """Return the bytes that GPT-2's byte-level vocabularies write as these characters (Radford et al. 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


class EngineText:
    """A `TextModel` whose texts the engine writes beside all others: what prompting strategies talk to.

    It waits in a thread of its own, and is left at once when it is cancelled.

    Args:
        prompt: gives ids from a prompt.
    """

    def __init__(self, writer: Writer, begin: list[int]):
        self._writer, self._begin = writer, begin
        self._sequences: list[Sequence] = []
        self._deadline = time.monotonic() + writer.timeout
        self._cancelled = False
        self.tokens = self.read = 0

    def cancel(self) -> None:
        self._cancelled = True
        self._writer.engine.cancel(self._sequences)

    def write(self, prompts: Many[str], sampling: SamplingConfig, seeds: Many[int] | None = None) -> list[str]:
        """Return the text that follows each prompt. Raises RequestError."""
        seeds = [sampling.seed] * len(prompts) if seeds is None else seeds
        arrived, told = threading.Condition(), []

        def tell(index: int, event: Token | str) -> None:
            with arrived:
                told.append((index, event))
                arrived.notify()

        streams, sequences = [], []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds)):
            ids = self._begin + self._writer.tokenizer.encode(prompt)
            room = min(self._writer.room(ids, None), sampling.tokens)
            settings = SamplingConfig(0, sampling.temperature, sampling.top_k, sampling.top_p, seed)
            sequences.append(Sequence(ids, settings, room, functools.partial(tell, index), deadline=self._deadline))
            streams.append(TextStream(self._writer.tokenizer, ids, sampling.stop))
            self.read += len(ids)
        if self._cancelled:
            raise RequestError(503, "the client has gone")
        self._writer.submit(sequences)
        self._sequences = sequences
        texts = [""] * len(prompts)
        going = set(range(len(prompts)))
        while going:
            with arrived:
                arrived.wait_for(lambda: told)
                events, told[:] = list(told), []
            for index, event in events:
                if index not in going:
                    continue
                if isinstance(event, Token):
                    self.tokens += 1
                    texts[index] += streams[index].add(event.id)
                    if streams[index].stopped:
                        self._writer.engine.cancel([sequences[index]])
                        going.discard(index)
                    continue
                if event in ENDINGS:
                    self._writer.engine.cancel(sequences)
                    status, message, code = ENDINGS[event]
                    raise RequestError(status, message, code=code)
                texts[index] += streams[index].end()
                going.discard(index)
        return texts

    def write_greedily(self, prompts: Many[str], tokens: int, stop: Many[str] = ()) -> list[str]:
        """Return the likeliest continuation of each prompt."""
        return self.write(prompts, SamplingConfig(tokens, 0.0, 0, 1.0, 0, list(stop)))


def context_guard(characters: int, context: int) -> None:
    """Refuse at once what can't fit, before it is encoded. Raises RequestError."""
    if characters > 64 * context:
        raise bad("messages", f"has {characters} characters, which the context of {context} tokens can't hold",
                  "context_length_exceeded")  # fmt: skip
