"""The engine: sequences join and leave a running batch between steps; one thread of its own does all that computes.

What a sequence draws depends on its seed, its settings and its logits alone, never on those beside it. Its logits are
the same in every batch but for the rounding of matrix products of other shapes: where two tokens are equally likely to
within that rounding, another batch may choose the other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.model.transformer import Transformer
from train.sampling import SamplingConfig, draw
from train.serve.decoder import forward_of
from train.serve.slots import NextTokens, Passage, Slots


class QueueFull(Exception):
    """So many sequences wait that no more are taken."""


@dataclass(frozen=True)
class Token:
    """One token of an answer, or of an echoed prompt.

    Args:
        logprob: of it, if asked for; None of a prompt's first, which nothing predicts.
        likeliest: ids with log-probabilities, the most likely first.
    """

    id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Sequence:
    """What is written behind a prompt.

    Args:
        prompt: at least one id.
        tokens: most to write; 0 only reads the prompt.
        tell: called by the engine's thread with each token, then with why it ended: `stop`, `length`, `timeout`,
            `cancelled` or `failed`.
        logprobs: of how many of the likeliest tokens it tells; None of none.
        of_prompt: tell of the prompt's tokens first, with their log-probabilities.
        deadline: by `time.monotonic`, at which it ends with what it has.
        bias: added to logits, by id.
    """

    prompt: list[int]
    sampling: SamplingConfig
    tokens: int
    tell: Callable[[Token | str], None]
    logprobs: int | None = None
    of_prompt: bool = False
    deadline: float = float("inf")
    bias: dict[int, float] = field(default_factory=dict)
    presence: float = 0.0
    frequency: float = 0.0
    cancelled: bool = False
    read: int = 0
    row: int = -1
    written: int = 0
    last: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    uniforms: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def length(self) -> int:
        """Tokens whose keys and values the cache holds while it writes."""
        return len(self.prompt) + self.written - 1

    @property
    def adjusts(self) -> bool:
        return bool(self.bias or self.presence or self.frequency)

    @property
    def key(self) -> tuple[float, int, float]:
        return self.sampling.temperature, self.sampling.top_k, self.sampling.top_p


class Engine:
    """Continues sequences of one model.

    Args:
        ends: ids that end a sequence.
        slots: most sequences at once.
        context: most tokens of a sequence, prompt included.
        prefill: tokens of a prompt that are read between two steps of the others.
        queue: most sequences that wait.
    """

    def __init__(
        self, model: Transformer, ends: frozenset[int], slots: int, context: int, prefill: int = 256, queue: int = 64
    ):
        weight = model.norm.weight
        self.device, self.ends, self.context, self.prefill, self.queue = weight.device, ends, context, prefill, queue
        self.slots = Slots(model.config, slots, context, weight.device, weight.dtype)
        self._forward = forward_of(model)
        self._waiting: deque[Sequence] = deque()
        self._reading: Sequence | None = None
        self._writing: list[Sequence] = []
        self._changed = threading.Condition()
        self._stopping = False
        self.steps = self.tokens_written = self.tokens_read = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._writing) + (self._reading is not None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, sequences: list[Sequence]) -> None:
        """Take sequences, all or none.

        Raises:
            QueueFull: there is no room for them.
        """
        with self._changed:
            free = self.slots.rows - self.running
            if self._stopping or self.failure or len(self._waiting) + len(sequences) > self.queue + max(0, free):
                raise QueueFull
            self._waiting.extend(sequences)
            self._changed.notify()

    def cancel(self, sequences: list[Sequence]) -> None:
        """Let sequences end, and free their slots, before the next step."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self._changed.notify()

    def stop(self) -> None:
        """End what runs, and the thread."""
        with self._changed:
            self._stopping = True
            for sequence in (*self._waiting, *self._writing, *([self._reading] if self._reading else [])):
                sequence.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self.running or self._stopping)
                    if self._stopping and not self._waiting and not self.running:
                        return
                try:
                    self._step()
                except Exception as error:  # told to all that wait, and by /health
                    self.failure = error
                    self._end_all()
                    raise

    def _end_all(self) -> None:
        with self._changed:
            ended = [*self._writing, *self._waiting, *([self._reading] if self._reading else [])]
            self._writing, self._reading = [], None
            self._waiting.clear()
        for sequence in ended:
            sequence.tell("failed")

    def _step(self) -> None:
        self._leave()
        if self._reading is None and len(self._writing) < self.slots.rows:
            with self._changed:
                if self._waiting:
                    self._reading = self._waiting.popleft()
                    self._reading.row = len(self._writing)
                    # As many as it may need, at once: the draws of a seed, whatever is beside it.
                    generator = torch.Generator().manual_seed(self._reading.sampling.seed)
                    self._reading.uniforms = torch.rand(max(1, self._reading.tokens), generator=generator)
        if self._reading is not None:
            self._read(self._reading)
        if self._writing:
            self._write()

    def _leave(self) -> None:
        """End what was cancelled or has run out of time."""
        now = time.monotonic()
        with self._changed:
            gone = [each for each in self._waiting if each.cancelled or now > each.deadline]
            for sequence in gone:
                self._waiting.remove(sequence)
            if (reading := self._reading) is not None and (reading.cancelled or now > reading.deadline):
                gone.append(reading)
                self._reading = None
        for sequence in gone:
            sequence.tell("cancelled" if sequence.cancelled else "timeout")
        for sequence in list(self._writing):
            if sequence.cancelled or now > sequence.deadline:
                self._free(sequence, "cancelled" if sequence.cancelled else "timeout")

    def _read(self, sequence: Sequence) -> None:
        """Read the next passage of a prompt; behind the last one the sequence writes."""
        start, stop = sequence.read, min(len(sequence.prompt), sequence.read + self.prefill)
        tokens = torch.tensor([sequence.prompt[start:stop]], device=self.device)
        wanted = torch.arange(0 if sequence.of_prompt else stop - start - 1, stop - start, device=self.device)
        logits = self._forward(tokens, Passage(self.slots, sequence.row, start), wanted).cpu()
        if sequence.of_prompt:
            self._tell_of_prompt(sequence, logits, start, stop)
        sequence.read = stop
        self.tokens_read += stop - start
        if stop < len(sequence.prompt):
            return
        with self._changed:
            self._reading = None
            row = len(self._writing)
            if sequence.tokens:
                self._writing.append(sequence)
        if not sequence.tokens:
            sequence.tell("length")
            return
        if sequence.row != row:
            self.slots.move(sequence.row, row, stop)
            sequence.row = row
        self._choose([sequence], logits[-1:])

    def _tell_of_prompt(self, sequence: Sequence, logits: Tensor, start: int, stop: int) -> None:
        if start == 0:
            sequence.tell(Token(sequence.prompt[0]))
        following = sequence.prompt[start + 1 : stop + 1]
        logprobs = logits[: len(following)].log_softmax(dim=-1)
        for row, token in enumerate(following):
            sequence.tell(with_logprobs(logprobs[row], token, sequence.logprobs or 0))

    def _write(self) -> None:
        """Write a token of each sequence."""
        writing = list(self._writing)
        tokens = torch.tensor([[sequence.last] for sequence in writing], device=self.device)
        cache = NextTokens(self.slots, [sequence.length for sequence in writing])
        logits = self._forward(tokens, cache, torch.arange(len(writing), device=self.device)).cpu()
        self.steps += 1
        self._choose(writing, logits)

    def _choose(self, sequences: list[Sequence], logits_BV: Tensor) -> None:
        chosen = [0] * len(sequences)
        groups: dict[tuple[float, int, float], list[int]] = {}
        for at, sequence in enumerate(sequences):
            groups.setdefault(sequence.key, []).append(at)
        for rows in groups.values():
            logits = logits_BV if len(rows) == len(sequences) else logits_BV[rows]
            if any(sequences[at].adjusts for at in rows):
                logits = torch.stack([adjusted(logits[number], sequences[at]) for number, at in enumerate(rows)])
            uniforms = torch.stack([sequences[at].uniforms[sequences[at].written] for at in rows])
            for at, token in zip(rows, draw(logits, sequences[rows[0]].sampling, uniforms).tolist()):
                chosen[at] = token
        ended: list[tuple[Sequence, str]] = []
        for sequence, token, logits in zip(sequences, chosen, logits_BV):
            self.tokens_written += 1
            sequence.written += 1
            sequence.last = token
            if token in self.ends:
                ended.append((sequence, "stop"))
                continue
            if sequence.presence or sequence.frequency:
                sequence.counts[token] += 1
            if sequence.logprobs is None:
                sequence.tell(Token(token))
            else:
                sequence.tell(with_logprobs(logits.log_softmax(dim=-1), token, sequence.logprobs))
            if sequence.written >= min(sequence.tokens, self.context - len(sequence.prompt)):
                ended.append((sequence, "length"))
        # Only now, when all have counted what the step has put into the cache, do rows move.
        for sequence, reason in ended:
            self._free(sequence, reason)

    def _free(self, sequence: Sequence, reason: str) -> None:
        """Take a sequence out of the batch; the last one moves into its row."""
        with self._changed:
            last = self._writing.pop()
            if last is not sequence:
                self._writing[sequence.row] = last
        if last is not sequence:
            self.slots.move(last.row, sequence.row, last.length)
            last.row = sequence.row
        sequence.tell(reason)


def adjusted(logits_V: Tensor, sequence: Sequence) -> Tensor:
    """Return logits with a request's biases, and its penalties on what it has written, as OpenAI's API defines them."""
    logits_V = logits_V.clone()
    for token, bias in sequence.bias.items():
        logits_V[token] += bias
    for token, count in sequence.counts.items():
        logits_V[token] -= sequence.presence + sequence.frequency * count
    return logits_V


def with_logprobs(logprobs_V: Tensor, token: int, count: int) -> Token:
    """Return a token with its log-probability and those of the likeliest."""
    values, ids = logprobs_V.topk(count) if count else (torch.empty(0), torch.empty(0))
    return Token(token, float(logprobs_V[token]), tuple(zip(ids.tolist(), values.tolist())))
