"""A model that takes and gives text, many at once: what evaluation, prompting strategies and the harness talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from train.generation.batch import generate_batch
from train.generation.likelihood import Likelihood, log_likelihoods
from train.sampling import SamplingConfig
from train.source import Loaded


class TextModel:
    """A loaded model and its tokenizer.

    Args:
        loaded: as `load_source` gives it.
        batch: most texts at once.
        begins_document: what it writes after begins a document; otherwise a sample, as it is tuned on.

    Attributes:
        shortened: prompts and contexts so far whose beginning didn't fit into the model's length.
    """

    def __init__(self, loaded: Loaded, batch: int = 64, begins_document: bool = True):
        self._before = [loaded.tokenizer.end_of_document] if begins_document else []
        self.model, self.tokenizer, self.batch = loaded.model, loaded.tokenizer, batch
        self.device = loaded.device
        self.maximum_length = loaded.model.config.maximum_length
        self.shortened = 0

    def write(self, prompts: Sequence[str], sampling: SamplingConfig, seeds: Sequence[int] | None = None) -> list[str]:
        """Return the text that follows each prompt, up to the document's end or a stop text, which are left out.

        Of a prompt that leaves no room for `sampling.tokens` the beginning is left out, as its end asks the question.
        """
        room = max(1, self.maximum_length - sampling.tokens)
        ids = [[*self._before, *self.tokenizer.encode(prompt)] for prompt in prompts]
        self.shortened += sum(len(each) > room for each in ids)
        model, dtype = self.model, self.model.norm.weight.dtype
        with _progress("generate", len(prompts)) as progress:
            written = generate_batch(
                model, model.config, [each[-room:] for each in ids], sampling, self.device, dtype, seeds,
                [self.tokenizer.end_of_document], self._ended(sampling.stop), self.batch, progress,
            )  # fmt: skip
        return [_cut(self.tokenizer.decode(each), sampling.stop) for each in written]

    def write_greedily(self, prompts: Sequence[str], tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Return the likeliest continuation of each prompt, token by token."""
        return self.write(prompts, replace(SamplingConfig(), tokens=tokens, temperature=0.0, stop=list(stop)))

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return the likelihood of the second text of each pair after the first, which may be empty."""
        return self.likelihoods_of_ids([self.encode_pair(*pair) for pair in pairs])

    def likelihoods_of_ids(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """Return the likelihood of the second ids of each pair after the first."""
        self.shortened += sum(len(one) + len(other) > self.maximum_length + 1 for one, other in pairs)
        with _progress("score", len(pairs)) as progress:
            return log_likelihoods(self.model, pairs, self.maximum_length, self.device, 64 * self.batch, progress)

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of both texts as they are encoded together, behind an end of document.

        A token that reaches across the border belongs to the continuation.
        """
        whole, alone = self.tokenizer.encode(context + continuation), self.tokenizer.encode(context)
        shared = next((at for at, (a, b) in enumerate(zip(whole, alone)) if a != b), min(len(whole), len(alone)))
        return [self.tokenizer.end_of_document, *whole[:shared]], whole[shared:]

    def _ended(self, stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
        if not stop:
            return None
        # A token stands for a byte at least: so many hold the whole stop text and the token before it.
        reach = max(len(text.encode()) for text in stop) + 4

        def ended(ids: list[int]) -> bool:
            tail = self.tokenizer.decode(ids[-reach:])
            return any(text in tail for text in stop)

        return ended


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    from data_pipeline.foundation.progress import Task

    with Task(name, total, "texts") as task:
        yield task.advance
