"""The same Llama trained by several programs, each in processes of its own, a few steps at a time when told to.

`benchmarks.training` starts `python -m benchmarks.contestants SETUP` as each rank, which reads lines from standard
input, {"steps": 3} or {"steps": 3, "parts": true} or {"save": FOLDER}, and answers each by one. A process that waits
for a line does nothing, so programs can take turns.

A step of each: batch, forward pass, backward pass, clipping to a gradient norm of 1, fused AdamW, the loss noted.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy

from data_pipeline.foundation.configuration import compose_configuration
from train.distributed import ClusterConfig, World, join_world, leave_world
from train.hardware import peak_memory
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.profile.parts import Parts, wrap_trainer

RATE, CLIP_NORM, WEIGHT_DECAY, BETAS = 1e-3, 1.0, 0.1, (0.9, 0.95)


@dataclass(frozen=True)
class Setup:
    """What is trained by whom.

    Args:
        contestant: `ours`, `plain`, `fsdp2`, `transformers` or `litgpt`.
        settings: of ours, as on the command line.
        dataset: that ours streams; the others draw tokens at random.
        sequences: of a step on each rank.
        peers: folder with packages of peers that aren't installed.
    """

    contestant: str
    settings: list[str]
    model: str
    vocabulary: int
    length: int
    sequences: int
    dataset: str
    peers: str | None = None

    def shape(self) -> TransformerConfig:
        """Return the model's configuration."""
        return self._composed(".").value.model.resolve(self.vocabulary)

    def cluster(self) -> ClusterConfig:
        """Return how processes are set up: ours as the trainer does it, the others' as PyTorch leaves them."""
        if self.contestant == "ours":
            return self._composed(".").value.cluster
        return ClusterConfig(huge_pages=False)

    def _composed(self, folder: str) -> Any:
        from train.schemas import register_schemas
        from train.settings import TrainConfig

        register_schemas()
        ranks = int(os.environ.get("WORLD_SIZE", 1))
        overrides = [
            *(f"model={self.model}", f"model.vocabulary_size={self.vocabulary}", f"data.path={self.dataset}"),
            *(f"data.sequence_length={self.length}", f"batch.sequences={self.sequences * ranks}"),
            *(f"run.root={folder}", "run.name=benchmark", "steps=1000000", "schedule=constant", "tracker=none"),
            "checkpoint.asynchronous=false",  # the others hold no copy of their state either
            *self.settings,
        ]
        return compose_configuration("train", overrides, TrainConfig)


class Ours:
    """The trainer, with all that it does in a step: judging, recording, watching."""

    def __init__(self, setup: Setup, world: World, folder: Path):
        from train.preflight import prepare_run
        from train.trainer import Trainer

        composed = setup._composed(str(world.from_main(str(folder))))
        self.trainer = Trainer(composed, prepare_run(composed, world.size), world)
        self.step = self.trainer.step

    def wrap(self, parts: Parts) -> None:
        wrap_trainer(parts, self.trainer)

    def save(self, folder: Path) -> None:
        self.trainer.save(background=False)


class Plain:
    """What one writes in an afternoon: whole logits, cross-entropy; on several ranks PyTorch's own DDP or FSDP2."""

    def __init__(self, setup: Setup, world: World):
        config = setup.shape()
        self.model: nn.Module = Transformer(config)
        initialise_weights(self.model, config, seed=0)
        self.batches = random_batches(setup, world.rank)
        self.sharded = setup.contestant == "fsdp2"
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            for block in self.model.blocks:  # type: ignore[union-attr]
                fully_shard(block)
            fully_shard(self.model)
        elif world.size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = adamw(self.model)
        self.losses: list[float] = []

    def step(self) -> None:
        tokens, targets = self.read()
        loss = self.forward(tokens, targets)
        self.backward(loss)
        self.update()
        self.losses.append(loss.item())

    def read(self) -> tuple[Tensor, Tensor]:
        return next(self.batches)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def wrap(self, parts: Parts) -> None:
        for name, part in (("read", "data"), ("forward",) * 2, ("backward",) * 2, ("update", "optimizer")):
            parts.wrap(self, name, part)
        parts.wrap_collectives()

    def save(self, folder: Path) -> None:
        torch.save([self.model.state_dict(), self.optimizer.state_dict()], folder / "plain.pt")


class Litgpt(Plain):
    """litgpt's GPT, trained as `litgpt pretrain` does it: Fabric, its chunked cross-entropy, its running mean."""

    def __init__(self, setup: Setup, world: World):
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy
        from litgpt.config import Config
        from litgpt.model import GPT
        from litgpt.utils import chunked_cross_entropy
        from torchmetrics.aggregation import RunningMean

        shape = setup.shape()
        config = Config(
            name="llama",
            block_size=setup.length,
            vocab_size=setup.vocabulary,
            padded_vocab_size=setup.vocabulary,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_query_groups=shape.key_value_heads,
            n_embd=shape.width,
            intermediate_size=shape.hidden_width,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
        model = GPT(config)
        model.apply(model._init_weights)
        model.lm_head.weight = model.transformer.wte.weight
        self.fabric = Fabric(accelerator="cpu", devices=1, strategy="auto")
        if world.size > 1:
            # Fabric would start processes itself; ours are there, so DDP is what its strategy does.
            assert DDPStrategy is not None
            self.model = nn.parallel.DistributedDataParallel(model)
            self.optimizer = adamw(self.model)
        else:
            self.model, self.optimizer = self.fabric.setup(model, adamw(model))
        self.loss_of, self.mean = chunked_cross_entropy, RunningMean(window=1, sync_on_compute=False)
        self.batches = random_batches(setup, world.rank)
        self.parallel = world.size > 1

    def step(self) -> None:
        tokens, targets = self.read()
        loss = self.forward(tokens, targets)
        self.backward(loss)
        self.mean.update(loss.detach())
        self.update()
        self.mean.compute().item()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss_of(self.model(tokens), targets)

    def backward(self, loss: Tensor) -> None:
        if self.parallel:
            loss.backward()
        else:
            self.fabric.backward(loss)

    def update(self) -> None:
        if self.parallel:
            return super().update()
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


class HuggingFace:
    """Transformers' Llama under its `Trainer`, which runs in a thread and is held after each step."""

    def __init__(self, setup: Setup, world: World, folder: Path):
        # A folder `datasets` where this is started is not the library that Transformers would take it for.
        sys.modules["datasets"] = None  # type: ignore[assignment]
        import transformers
        from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

        transformers.logging.set_verbosity_error()
        shape = setup.shape()
        config = LlamaConfig(
            vocab_size=setup.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.hidden_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=setup.length,
            tie_word_embeddings=shape.tied_embeddings,
            use_cache=False,
        )
        arguments = TrainingArguments(
            output_dir=str(folder / "transformers"),
            per_device_train_batch_size=setup.sequences,
            max_steps=1_000_000,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=WEIGHT_DECAY,
            adam_beta2=BETAS[1],
            max_grad_norm=CLIP_NORM,
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            ddp_backend="gloo" if world.size > 1 else None,
            dataloader_drop_last=True,
        )
        allowed, done = threading.Semaphore(0), threading.Semaphore(0)

        class Held(TrainerCallback):
            """From the beginning of a step to that of the next one, so that logging and data are in it."""

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                done.release()
                allowed.acquire()

            def on_log(self, *_: Any, **__: Any) -> None:
                pass

        self.trainer = transformers.Trainer(
            model=LlamaForCausalLM(config), args=arguments, train_dataset=RandomRows(setup), callbacks=[Held()]
        )
        self.trainer.remove_callback(transformers.PrinterCallback)
        self._allowed, self._done = allowed, done
        self._failed: BaseException | None = None
        threading.Thread(target=self._train, daemon=True).start()
        self._wait()

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:
            self._failed = error
        self._done.release()

    def _wait(self) -> None:
        self._done.acquire()
        if self._failed is not None:
            raise self._failed

    def step(self) -> None:
        self._allowed.release()
        self._wait()

    def wrap(self, parts: Parts) -> None:
        trainer = self.trainer
        for name, part in (
            ("get_batch_samples", "data"),
            ("compute_loss", "forward"),
            ("_maybe_log_save_evaluate", "logging"),
        ):
            parts.wrap(trainer, name, part)
        parts.wrap(trainer.accelerator, "backward", "backward")
        parts.wrap(trainer.accelerator, "clip_grad_norm_", "optimizer")
        parts.wrap(trainer.optimizer, "step", "optimizer")
        parts.wrap_collectives()

    def save(self, folder: Path) -> None:
        assert isinstance(self.trainer.model, nn.Module)
        self.trainer._save_checkpoint(self.trainer.model, trial=None)


class RandomRows(torch.utils.data.Dataset):
    """Rows for Transformers, which shifts the labels itself."""

    def __init__(self, setup: Setup):
        self.rows = torch.randint(min(setup.vocabulary, 4096), (4096, setup.length))

    def __len__(self) -> int:
        return 1 << 24

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        row = self.rows[number % len(self.rows)]
        return {"input_ids": row, "labels": row}


def random_batches(setup: Setup, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, (sequences, T) each."""
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randint(min(setup.vocabulary, 4096), (1024, setup.length + 1), generator=generator)
    while True:
        for part in rows.split(setup.sequences):
            if len(part) == setup.sequences:
                yield part[:, :-1].contiguous(), part[:, 1:].contiguous()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return fused AdamW, which takes the DTensors of FSDP2 too."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def build(setup: Setup, world: World, folder: Path) -> Any:
    """Return the contestant of that name."""
    if setup.contestant == "ours":
        return Ours(setup, world, folder)
    if setup.contestant == "transformers":
        return HuggingFace(setup, world, folder)
    return {"plain": Plain, "fsdp2": Plain, "litgpt": Litgpt}[setup.contestant](setup, world)


def answers(contestant: Any, world: World, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield what each line came to."""
    for line in lines:
        asked = json.loads(line)
        parts = Parts(world.device)
        if asked.get("parts"):
            contestant.wrap(parts)
        if world.size > 1:
            distributed.barrier()
        parts.begin()
        started = time.perf_counter()
        if folder := asked.get("save"):
            contestant.save(Path(folder))
        for _ in range(asked.get("steps", 0)):
            contestant.step()
        seconds = time.perf_counter() - started
        told = parts.end()
        parts.unwrap()
        yield {"seconds": seconds, "parts": told, "memory": peak_memory(world.device)}


def main() -> int:
    # What libraries print must not come between the answers.
    answer, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    setup = Setup(**json.loads(sys.argv[1]))
    if setup.peers:
        sys.path.append(setup.peers)
    tell: Callable[[Any], None] = lambda what: print(json.dumps(what), file=answer, flush=True)  # noqa: E731
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        world = join_world(setup.cluster())
        closing.callback(leave_world)
        contestant = build(setup, world, folder)
        flops = setup.shape().flops_per_token(setup.length)
        tell({"flops_per_token": flops})
        for answered in answers(contestant, world, iter(sys.stdin.readline, "")):
            tell(answered)
        # Threads that a peer has left running would keep the process.
        sys.stderr.flush()
        closing.close()
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
