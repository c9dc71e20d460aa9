"""Trains small models under a launcher, as a list of plans in JSON says, and writes down every loss.

Usage: torchrun --nproc-per-node N engine_runs.py PLANS.json RESULTS.json

All plans run one after another in the same processes: starting DeepSpeed costs more than training here.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from packed_samples import Half, draw_pairs, packed

from data_pipeline.foundation.errors import Failure
from data_pipeline.loader import Batch
from data_pipeline.tokenization.tokenizer import load_tokenizer
from train.batch import BatchConfig, plan_batch
from train.checkpoint.load import load_checkpoint, load_weights
from train.checkpoint.pieces import optimizer_steps, whole_copies
from train.checkpoint.retention import Retention
from train.checkpoint.save import CheckpointContext, TrainerState, loss_scaler_of
from train.checkpoint.writer import CheckpointWriter
from train.deepspeed_settings import ZeroConfig
from train.distributed import ClusterConfig, World, join_world, leave_world
from train.ema import EmaConfig
from train.engine import Engine
from train.guard import Guard, GuardConfig
from train.model.adapters import LoraConfig
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.objective import Objective, ObjectiveConfig, build_objective
from train.objective.group_relative import Answers, GroupRelativePolicy
from train.optimizer import OptimizerConfig
from train.parallel import ParallelConfig
from train.place import Place
from train.precision import PrecisionConfig
from train.replicas import check_replicas

SEED, LENGTH, SEQUENCES, VOCABULARY = 5, 32, 8, 128
MODEL = TransformerConfig(width=64, layers=2, heads=4, key_value_heads=2, hidden_width=96, maximum_length=64).resolve(
    VOCABULARY
)
EXPERTS = replace(MODEL, hidden_width=48, experts=6, active_experts=2, shared_width=32)
OPTIMIZER = OptimizerConfig(learning_rate=4e-3, clip_norm=1.0)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {"kind": "dpo", "beta": 0.5},
    "forward": {"kind": "distillation", "divergence": "forward", "temperature": 2.0, "hard_weight": 0.25},
    "reverse": {"kind": "distillation", "divergence": "reverse", "temperature": 1.0, "hard_weight": 0.0},
    "grpo": {
        **{"kind": "grpo", "beta": 0.2, "verifier": "answer", "extract": {}, "samples": 2, "tokens": 16},
        **{"temperature": 1.0, "clip": 0.2, "normalisation": "sequence", "by_deviation": True},
        **{"skip_alike": False, "updates": 1, "at_once": 64},
    },
}


@dataclass(frozen=True)
class Plan:
    """One training.

    Args:
        steps: number of the last step; they count from 1.
        micro: sequences of a forward pass; the batch has 8.
        objective: settings of an objective on packed samples, held to `frozen_model()`; None trains on plain batches.
        lora: settings of adapters.
        optimizer: settings of it beside those of all plans.
        ema: decay of the weights' average; 0 keeps none.
        model: the model's shape, where it isn't that of all plans.
        start: checkpoint whose weights are begun with.
        experts: the model is the one with experts.
        sequence: ranks that share each sequence.
        tensor: ranks that split each block; at the end a whole copy of the model is compared with them.
        half_until: up to this step the batch has its first 4 alone.
        save_at: per step, the folder of checkpoints that one is written into.
        background_at: per step, the folder that a checkpoint is written into while training goes on.
        background_full_disk_at: the same, while files can't grow, on the ranks of `full_disk_ranks`.
        break_off: folder that checkpoints are begun to be written into at the end, when the run breaks off, twice.
        load: checkpoint to go on from.
        refused_at: steps whose update is refused.
        nan_at: steps with a loss that is no number in the last micro-batch of the last rank.
        return_at: per step, the checkpoint whose state comes back after it.
        corrupted: one bit of one rank's copy of something is flipped at the end, before the ranks compare.
        full_disk_at: at these steps, a checkpoint is tried while files can't grow, on the ranks of `full_disk_ranks`.
    """

    name: str
    stage: int = 0
    steps: int = 12
    micro: int = 2
    objective: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    ema: float = 0.0
    model: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    half_until: int = 0
    precision: str = "fp32"
    activation_checkpointing: bool = False
    compiled: str | None = None
    recomputed: str = "blocks"
    experts: bool = False
    sequence: int = 1
    tensor: int = 1
    zero: dict[str, Any] = field(default_factory=dict)
    save_at: dict[str, str] = field(default_factory=dict)
    background_at: dict[str, str] = field(default_factory=dict)
    background_full_disk_at: dict[str, str] = field(default_factory=dict)
    break_off: str | None = None
    load: str | None = None
    refused_at: list[int] = field(default_factory=list)
    nan_at: list[int] = field(default_factory=list)
    return_at: dict[str, str] = field(default_factory=dict)
    corrupted: str = ""
    full_disk_at: dict[str, str] = field(default_factory=dict)
    full_disk_ranks: list[int] = field(default_factory=list)


def rate(step: int) -> float:
    return OPTIMIZER.learning_rate * min(1.0, step / 10)


def whole_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a step's inputs and targets, the same everywhere: a pattern to learn, and very unequal masks."""
    generator = torch.Generator().manual_seed(step)
    first = torch.randint(VOCABULARY, (SEQUENCES, 1), generator=generator)
    steps = torch.randint(1, 4, (SEQUENCES, LENGTH), generator=generator)
    tokens = torch.cat((first, first + steps.cumsum(1)), dim=1) % VOCABULARY
    targets = tokens[:, 1:].clone()
    # The first sequences count few targets, so a mean of means is not the mean.
    targets[0, 3:] = -1
    targets[1, :-5] = -1
    return tokens[:, :-1].contiguous(), targets


def my_batches(step: int, place: Place, plan: Plan) -> list[Batch]:
    share = (SEQUENCES // 2 if step <= plan.half_until else SEQUENCES) // place.readers
    first = place.reader * share
    if plan.objective is not None:
        rows = draw_pairs(step, SEQUENCES, VOCABULARY)
        if plan.objective["kind"] == "grpo":
            return [answered(rows[at : at + plan.micro], at) for at in range(first, first + share, plan.micro)]
        as_pairs = plan.objective["kind"] == "dpo"
        return [packed(rows[at : at + plan.micro], as_pairs) for at in range(first, first + share, plan.micro)]
    (tokens, targets), micro = whole_batch(step), plan.micro
    ends = [[LENGTH]] * micro
    return [
        Batch(tokens[at : at + micro], targets[at : at + micro], ends, range(at, at + micro))
        for at in range(first, first + share, micro)
    ]


def answered(rows: list[list[tuple[Half, Half]]], first: int) -> Answers:
    """Return an answer to the first problem of each row, better and worse ones in turn, as the frozen model's."""
    halves = [row[0][(first + number) % 2] for number, row in enumerate(rows)]
    batch = packed([[(half, Half(half.tokens[:0], 0))] for half in halves], as_pairs=False)
    advantages = torch.tensor([(1.0, -0.5)[(first + number) % 2] for number in range(len(rows))])
    answers = Answers(batch.tokens, batch.targets, None, batch.numbers, advantages=advantages)
    policy = build_objective(ObjectiveConfig(**OBJECTIVES["grpo"]), True)
    assert isinstance(policy, GroupRelativePolicy)
    return policy.remembering(frozen_model(), answers)


def frozen_model() -> Transformer:
    """Return the model that objectives hold the trained one to: of the same shape, with other weights."""
    model = Transformer(MODEL)
    initialise_weights(model, MODEL, SEED + 1)
    return model.requires_grad_(False).eval()


def train(plan: Plan, world: World) -> dict[str, Any]:
    parallel = ParallelConfig(plan.sequence, plan.tensor)
    engine = Engine(
        replace(EXPERTS if plan.experts else MODEL, **plan.model),
        SEED,
        world,
        plan_batch(BatchConfig(SEQUENCES, plan.micro), world.size // parallel.together),
        ZeroConfig(**{"stage": plan.stage, "reduce_bucket": 20_000, "gather_bucket": 20_000, **plan.zero}),
        PrecisionConfig(plan.precision),
        replace(OPTIMIZER, **plan.optimizer),
        plan.activation_checkpointing,
        lora=LoraConfig(**plan.lora) if plan.lora else None,
        compiled=plan.compiled,
        ema=EmaConfig(plan.ema),
        recomputed=plan.recomputed,
        parallel=parallel,
    )
    if plan.start:
        load_weights(engine, Path(plan.start))
    plain = build_objective(ObjectiveConfig(), False)
    if plan.objective is not None:
        held_to = frozen_model()
        held_to.share_sequences(engine.place.shared)
        plain = build_objective(ObjectiveConfig(**plan.objective), True, held_to)
    guard = Guard(GuardConfig(), {})
    result: dict[str, Any] = {"losses": {}, "norms": {}, "targets": {}, "checkpoints": {}, "refused": {}, "figures": {}}
    result |= {"published": {}, "background_refused": {}, "skipped": {}, "corruption": ""}
    first = load_checkpoint(engine, Path(plan.load)).step if plan.load else 0
    background: CheckpointWriter | None = None
    for step in range(first + 1, plan.steps + 1):
        batches = [engine.place.part(batch) for batch in my_batches(step, engine.place, plan)]
        objective = LastIsNan(plain, len(batches), world) if step in plan.nan_at else plain
        refusal = "refused by the plan" if step in plan.refused_at else None
        done = engine.train_step(batches, objective, rate(step), lambda *told, no=refusal: no or guard.judge(*told))
        if done.refused:
            result["skipped"][step] = done.refused
        if checkpoint := plan.return_at.get(str(step)):
            load_checkpoint(engine, Path(checkpoint))
        result["losses"][step], result["norms"][step] = done.loss, done.gradient_norm
        result["targets"][step], result["figures"][step] = done.targets, done.figures
        if folder := plan.save_at.get(str(step)):
            result["checkpoints"][step] = str(save(engine, step, folder))
        if folder := plan.full_disk_at.get(str(step)):
            saving = partial(save, engine, step, folder)
            result["refused"][step] = refused(saving, world.rank in plan.full_disk_ranks)
        if background and (published := background.poll()):
            result["published"][step] = published.name
        if folder := plan.background_at.get(str(step)):
            background = background or writer_into(folder, engine, background=True)
            if published := background.wait():
                result["published"][step] = published.name
            background.save(state_at(engine, step), background=True)
        if folder := plan.background_full_disk_at.get(str(step)):
            assert background is not None
            if published := background.wait():
                result["published"][step] = published.name
            saving = partial(save_while_waiting, background, state_at(engine, step))
            result["background_refused"][step] = refused(saving, world.rank in plan.full_disk_ranks)
    if background and (published := background.wait()):
        result["published"]["end"] = published.name
    if plan.break_off:
        result["broken off"] = broken_off(writer_into(plan.break_off, engine, background=True), engine, plan.steps)
    if plan.tensor > 1:
        result["whole copy"] = of_whole_copy(engine)
    if plan.corrupted:
        result["corruption"] = found_corruption(engine, plan.corrupted)
    engine.close()
    return result


def of_whole_copy(engine: Engine) -> list[float]:
    """Return the summed loss of a batch by the ranks together, and by a copy of the model that this one has whole."""
    tokens, targets = whole_batch(1)
    batch = Batch(tokens, targets, [[LENGTH]] * SEQUENCES, range(SEQUENCES))
    with engine.evaluating():
        together = engine.held_out(batch, build_objective(ObjectiveConfig(), False))["loss"]
    with engine.whole() as model:
        return [together, float(model(tokens, targets))]


def broken_off(writer: CheckpointWriter, engine: Engine, step: int) -> list[str]:
    """Break off in a save, first as if the last rank were gone, then on all ranks alike; return what is there."""
    world, names = engine.world, []
    for later, gone in enumerate((world.size - 1, None)):
        writer.save(state_at(engine, step + later), background=True)
        if world.rank == gone:
            world.barrier()
        published = writer.abandon(patience=60 if gone is None else 2)
        names.append(published.name if published else "")
        if world.rank != gone:
            world.barrier()
    return names


class LastIsNan:
    """An objective whose last call on the last rank comes to no number."""

    def __init__(self, objective: Objective, calls: int, world: World):
        self._objective, self._left, self._here = objective, calls, world.rank == world.size - 1

    is_likelihood = True

    def held_out(self, model: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return self._objective.held_out(model, batch)

    def target_count(self, batch: Batch) -> int:
        return self._objective.target_count(batch)

    def summed_loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        self._left -= 1
        loss = self._objective.summed_loss(model, batch)
        return loss * float("nan") if self._here and self._left == 0 else loss


def found_corruption(engine: Engine, name: str) -> str:
    """Compare the ranks, flip the lowest bit of one element on the last of them, and return what is said then."""
    check_replicas(engine)
    if engine.world.rank == engine.world.size - 1:
        values = dict(whole_copies(engine))[name]
        values.view(-1)[5:6].view(torch.int32 if values.element_size() == 4 else torch.int16).bitwise_xor_(1)
    try:
        check_replicas(engine)
    except Failure as error:
        return str(error)
    return ""


def save(engine: Engine, step: int, folder: str) -> Path:
    saved = writer_into(folder, engine).save(state_at(engine, step))
    assert saved is not None
    return saved


def save_while_waiting(writer: CheckpointWriter, state: TrainerState) -> None:
    writer.save(state, background=True)
    writer.wait()


def state_at(engine: Engine, step: int) -> TrainerState:
    return TrainerState(step, step * SEQUENCES, 0, optimizer_steps(engine), loss_scaler_of(engine))


def writer_into(folder: str, engine: Engine, background: bool = False) -> CheckpointWriter:
    tokenizer = load_tokenizer(Path(folder).parent / "tokenizer")
    model = {"model": vars(engine.module.config), "sequence_length": LENGTH, "lora": vars(engine.lora)}
    context = CheckpointContext(Path(folder), tokenizer, model, "d", "c")
    return CheckpointWriter(engine, context, Retention(newest=0), background)


def refused(saving: Callable[[], object], here: bool) -> str:
    """Save while no file may grow beyond 100 kB on this rank; return what the failure says."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if here:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        saving()
    except Failure as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return ""


def main() -> None:
    plans, results = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world(ClusterConfig(threads=1, timeout_seconds=120))
    try:
        done = {plan["name"]: train(Plan(**plan), world) for plan in json.loads(plans.read_text())}
    finally:
        leave_world()
    if world.is_main:
        results.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
