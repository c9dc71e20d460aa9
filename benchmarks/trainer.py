"""The trainer, with everything it does in a step, against the same model in a plain PyTorch loop."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks.rounds import compare
from data_pipeline.foundation.configuration import compose_configuration
from data_pipeline.loader import Batch, Share
from train.distributed import ClusterConfig, join_world, leave_world
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.preflight import prepare_run
from train.schemas import register_schemas
from train.settings import TrainConfig
from train.trainer import Trainer

LAYOUTS = (("nano", 256, 16, 8), ("micro", 256, 16, 4), ("small_30m", 512, 4, 2))
"""Model, tokens of a sequence, sequences of a step, steps of a round."""


Round = Callable[[], int]


def trainer_lines(dataset: Path, rounds: int = 5) -> Iterator[str]:
    """Compare tokens per second at three sizes, ZeRO 0, float32, one process."""
    register_schemas()
    world = join_world(ClusterConfig())
    for model, length, sequences, steps in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                f"model={model}",
                f"data.path={dataset}",
                f"data.sequence_length={length}",
                f"batch.sequences={sequences}",
                f"run.root={folder}",
                "steps=1000000",
                "schedule=constant",
                "tracker=none",
            ]
            composed = compose_configuration("train", overrides, TrainConfig)
            trainer = Trainer(composed, prepare_run(composed, 1), world)
            plain = PlainLoop(trainer.prepared.model, _batches(trainer))
            ours, theirs = _rounds_of(trainer, plain, steps, steps * sequences * length)
            yield compare(ours, theirs, rounds).line(f"trainer, {model}, T {length}", "tokens/s", "plain loop")
            trainer.stream.close()
            trainer.engine.close()
    leave_world()


def _batches(trainer: Trainer) -> Iterator[list[Batch]]:
    """Yield the same steps as the trainer reads, from a stream of their own."""
    share = Share(trainer.prepared.batch.micro)
    stream = trainer.prepared.data.stream(share, False, trainer.world, ())
    return (stream.next(step)[0] for step in itertools.count())


def _rounds_of(trainer: Trainer, plain: PlainLoop, steps: int, tokens: int) -> tuple[Round, Round]:
    """Return one round of each: so many steps, which are so many tokens."""

    def ours() -> int:
        for _ in range(steps):
            trainer.step()
        return tokens

    def theirs() -> int:
        for _ in range(steps):
            plain.step()
        return tokens

    return ours, theirs


class PlainLoop:
    """What one writes in an afternoon: logits, cross-entropy, backward, clip, fused AdamW; nothing recorded."""

    def __init__(self, config: TransformerConfig, batches: Iterator[list[Batch]]):
        self.model, self.batches = Transformer(config), batches
        initialise_weights(self.model, config, seed=0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self) -> float:
        (batch,) = next(self.batches)
        logits = self.model(batch.tokens)
        loss = cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()
