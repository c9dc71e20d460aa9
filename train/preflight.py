"""All that can be settled before a process group, a weight or a GPU: data, model, batch, run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.curriculum import Segment
from data_pipeline.dataset import stage_tokens
from data_pipeline.foundation.configuration import Composed, first_on
from data_pipeline.foundation.errors import UserError
from data_pipeline.packing import CONCATENATE
from data_pipeline.tokenization.token_bytes import token_bytes
from train.batch import BatchPlan, plan_batches
from train.compilation import DEEPCOMPILE, check_device, check_one_graph
from train.deepspeed_settings import ZeroConfig, run_as
from train.float8 import check_float8_tokens
from train.frozen import Frozen, find_frozen
from train.memory.footprint import Footprint, footprint
from train.memory.layout import Layout
from train.memory.room import Room, check_room, find_room, gigabytes, ranks_on_this_machine
from train.memory.sizes import FLOAT, parameter_sizes
from train.model.compressible import check_quantization
from train.model.recomputation import BLOCKS, CHEAP
from train.model.transformer import TransformerConfig
from train.objective import check_objective_data
from train.parallel import check_parallel, check_shares, check_split
from train.run_data import RunData, open_run_data
from train.run_folder import RunFolder, check_run, locate_run
from train.settings import TrainConfig, check_settings, plan_run
from train.start import Start, find_start

MENDS = 3


@dataclass(frozen=True)
class Prepared:
    """What a run consists of, checked to fit together.

    Args:
        model: resolved configuration.
        parameters: of the model, tied ones counted once.
        trained: how many of them are, or are in adapters.
        frozen_bytes: that a rank holds of weights that don't change.
        state_bytes: of a checkpoint.
        zero: as it is run.
        layout: of the largest step.
        footprint: what a rank holds in it.
        token_bytes: (vocabulary,) bytes of text that each token stands for.
        lineage: run, dataset and settings by name and fingerprint.
        start: whose weights a new run begins with; its own, drawn at random, if None.
        frozen: the model that the objective holds this one to; most need none.
    """

    model: TransformerConfig
    parameters: int
    trained: int
    frozen_bytes: int
    state_bytes: int
    batch: BatchPlan
    zero: ZeroConfig
    layout: Layout
    footprint: Footprint
    data: RunData
    token_bytes: NDArray[np.int64]
    run: RunFolder
    lineage: dict[str, Any]
    start: Start | None
    frozen: Frozen | None = None

    def lines(self, config: TrainConfig) -> list[str]:
        """Return what is about to happen, for a person."""
        batch, steps, held = self.batch, self.data.steps, self.footprint
        last = steps.segment(config.steps - 1)
        accumulation = last.sequences // batch.micro // batch.ranks
        changes = len(steps.segments) - 1
        tokens = sum(stage_tokens(steps.segments, config.steps).values())
        flops = self.model.flops_per_token(config.data.sequence_length) * tokens
        return [
            f"run      {self.run.path}",
            *([f"start    {self.start.checkpoint}"] if self.start else []),
            *([f"{self.frozen.role:<8} {self.frozen.checkpoint}"] if self.frozen else []),
            f"model    {self.model.name}: {self.parameters:,} parameters, vocabulary {self.model.vocabulary_size:,}",
            *(
                [
                    f"experts  {self.model.active_experts} of {self.model.experts}: a token meets "
                    f"{self.parameters - self.model.idle_parameters:,} parameters"
                ]
                if self.model.experts
                else []
            ),
            *(
                [f"lora     rank {config.lora.rank}: {self.trained:,} parameters in adapters"]
                if config.lora.rank
                else []
            ),
            f"data     {self.data.describe(config.steps)}",
            f"batch    {last.sequences} sequences × {last.length} tokens = {last.sequences * last.length:,} tokens a "
            f"step (micro {batch.micro} × accumulation {accumulation} × {batch.ranks} ranks)",
            *([f"         each of them {config.parallel.described}"] if config.parallel.described else []),
            *([f"         after {changes} changes on the way"] if changes else []),
            f"steps    {config.steps:,}: {tokens:,} tokens, {flops:.2e} FLOPs",
            f"engine   ZeRO {config.zero.stage}, {config.precision.kind}{self._run_as(config)}",
            f"memory   {gigabytes(held.peak.total + self.frozen_bytes)} of tensors on a rank at most: {held.moment}",
        ]

    def _run_as(self, config: TrainConfig) -> str:
        if self.zero.stage == config.zero.stage:
            return ""
        return f" (nobody to share with: run as {self.zero.stage})"


def prepare_run(composed: Composed[TrainConfig], ranks: int) -> Prepared:
    """Check settings, data, model and run folder against each other; change nothing.

    Raises:
        UserError: something doesn't fit; the message names it.
        Failure: the dataset is damaged, or its server can't be reached.
    """
    config = composed.value
    check_settings(config)
    segments = plan_run(config)
    check_parallel(config.parallel, ranks, config.objective.kind)
    batch = plan_batches(config.batch, segments, ranks // config.parallel.together)
    data = open_run_data(config, segments)
    run = locate_run(composed, data.fingerprint)
    start = find_start(config.model, config.start_from, run, data.tokenizer, data.name, composed.overrides)
    shape = start.model if start else config.model
    model = shape.resolve(data.tokenizer.vocabulary_size, packed=config.data.packing != CONCATENATE)
    check_quantization(config.quantization, config.lora.rank, model)
    _check_experts(config, model)
    check_shares(config.parallel, model, sorted({segment.length for segment in segments}))
    check_split(config.parallel, model, _whole_matrices(config, start is not None and start.pruning is not None))
    if start and start.pruning:
        _check_zeros(config)
    in_between = {"model.document_mask=true": model.document_mask, "a pruned start_from": start and start.pruning}
    check_one_graph(config.compiled, in_between)
    if config.precision.kind == "fp8":
        check_float8_tokens(batch.micro, [segment.length for segment in segments])
    check_objective_data(config.objective, data.samples, bool(model.document_mask), data.name, config.data.packing)
    frozen = find_frozen(config, model, run, data.tokenizer, data.name)
    if frozen:
        check_shares(config.parallel, frozen.model, [], frozen.role)
    check_run(run, composed)
    in_graph = config.compiled == DEEPCOMPILE
    zero = run_as(config.zero, config.precision, ranks // config.parallel.tensor, config.deepspeed, in_graph)
    layout = _layout(config, zero, batch, segments)
    trained = parameter_sizes(model, config.optimizer, config.lora, config.ema.decay > 0)
    split = parameter_sizes(model, config.optimizer, config.lora, config.ema.decay > 0, config.parallel.tensor)
    parameters = parameter_sizes(model).total
    unchanged = (parameters if config.lora.rank else 0) + (parameter_sizes(frozen.model).total if frozen else 0)
    if config.quantization.bits:
        unchanged += parameters  # the backward pass keeps what weights were seen as
    assert model.vocabulary_size is not None
    return Prepared(
        model=model,
        parameters=parameters,
        trained=trained.total,
        frozen_bytes=unchanged * layout.element,
        state_bytes=trained.state_bytes + (FLOAT * parameters if config.lora.rank else 0),
        batch=batch,
        zero=zero,
        layout=layout,
        footprint=footprint(model, layout, split),
        data=data,
        token_bytes=token_bytes(data.tokenizer, model.vocabulary_size),
        run=run,
        lineage={
            "run": run.name,
            "dataset": data.fingerprint,
            "configuration": run.fingerprint,
            **({"start": start.lineage} if start else {}),
            **({frozen.role: frozen.lineage} if frozen else {}),
        },
        start=start,
        frozen=frozen,
    )


def _check_zeros(config: TrainConfig) -> None:
    """Refuse what would fill the zeros of a pruned start."""
    filling = {
        f"lora.rank={config.lora.rank}": config.lora.rank,
        f"optimizer={config.optimizer.kind}": config.optimizer.kind == "muon",
        f"precision={config.precision.kind}": config.precision.kind == "fp8",
    }
    if setting := first_on(filling):
        raise UserError(
            f"start_from={config.start_from} is pruned, and {setting} would fill its zeros: train all weights by "
            "optimizer=adamw or lion, in bf16 or fp32"
        )


def _check_experts(config: TrainConfig, model: TransformerConfig) -> None:
    """Refuse what works on matrices one by one, where a model has them stacked as experts, and what wasn't tried."""
    asked = {
        f"lora.rank={config.lora.rank}": config.lora.rank is not None,
        f"quantization.bits={config.quantization.bits}": config.quantization.bits is not None,
        f"optimizer={config.optimizer.kind}": config.optimizer.kind == "muon",
        f"optimizer.base_width={config.optimizer.base_width}": config.optimizer.base_width is not None,
        f"recomputed={config.recomputed}": config.activation_checkpointing and config.recomputed == CHEAP,
    }
    if model.experts and (setting := first_on(asked)):
        raise UserError(f"{setting} knows single matrices alone, and model.experts={model.experts} are stacked")
    if model.experts and config.compile:
        raise UserError(f"compile=true with model.experts={model.experts} was never tried: leave compile out")


def _whole_matrices(config: TrainConfig, is_pruned: bool) -> dict[str, str]:
    """Return what needs whole matrices, each with what for."""
    asked = {
        f"optimizer={config.optimizer.kind}": (config.optimizer.kind == "muon", "makes whole matrices orthogonal"),
        f"lora.rank={config.lora.rank}": (bool(config.lora.rank), "stands beside whole matrices"),
        f"quantization.bits={config.quantization.bits}": (
            bool(config.quantization.bits),
            "rounds by groups of whole rows",
        ),
        "precision=fp8": (config.precision.kind == "fp8", "puts layers of its own in the place of those"),
        f"start_from={config.start_from}": (is_pruned, "keeps the zeros of whole matrices"),
    }
    return {setting: reason for setting, (is_asked, reason) in asked.items() if is_asked}


def _layout(config: TrainConfig, zero: ZeroConfig, batch: BatchPlan, segments: Sequence[Segment]) -> Layout:
    """Return the layout of the step that takes most: the longest sequences, the largest batch."""
    return Layout(
        ranks=batch.ranks * config.parallel.sequence,
        sequence_ranks=config.parallel.sequence,
        tensor_ranks=config.parallel.tensor,
        micro=batch.micro,
        length=max(segment.length for segment in segments),
        accumulation=batch.accumulation,
        precision=config.precision.kind,
        activation_checkpointing=config.activation_checkpointing,
        recomputed=config.recomputed,
        is_gpu=torch.cuda.is_available(),
        zero=zero,
    )


def check_machine(prepared: Prepared, config: TrainConfig, local_rank: int) -> str | None:
    """Hold what is asked of this machine against its device and its memory; return a warning, as `check_memory`.

    Raises:
        UserError: it can't run here; the message says what would.
    """
    check_device(config.compiled)
    return check_memory(prepared, config, local_rank)


def check_memory(prepared: Prepared, config: TrainConfig, local_rank: int) -> str | None:
    """Hold what a rank will need against what there is for it; return a warning where it is tight.

    Weights that don't change are taken off, and a checkpoint that is written while training goes on: it is a copy in
    host memory meanwhile.

    Raises:
        UserError: it can't fit; the message says what would.
    """
    room = find_room(ranks_on_this_machine(prepared.layout.processes), local_rank)
    room = replace(room, device=room.device - prepared.frozen_bytes)
    if config.checkpoint.asynchronous and 0 < config.checkpoint.every < config.steps:
        room = room.without(prepared.state_bytes / prepared.layout.processes)
    return check_room(prepared.footprint, room, lambda: mends(prepared.model, prepared.layout, room, config))


def mends(model: TransformerConfig, layout: Layout, room: Room, config: TrainConfig) -> list[str]:
    """Return settings that would let a run fit, each with what it then needs; those that change least come first."""
    smaller = [micro for micro in range(layout.micro - 1, 0, -1) if layout.micro % micro == 0]
    steps = layout.micro * layout.accumulation
    changed: list[tuple[str, Layout]] = [
        (f"batch.micro={micro}", replace(layout, micro=micro, accumulation=steps // micro)) for micro in smaller
    ]
    if not layout.activation_checkpointing:
        cheap = {} if model.experts else {"activation_checkpointing=true recomputed=cheap": CHEAP}
        ways = {**cheap, "activation_checkpointing=true": BLOCKS}
        changed += [
            (f"{name}{' and ' if name else ''}{way}", replace(other, activation_checkpointing=True, recomputed=kind))
            for name, other in [("", layout), *changed]
            for way, kind in ways.items()
        ]
    changed += [
        (f"{name}{' and ' if name else ''}zero={stage}", replace(other, zero=replace(other.zero, stage=stage)))
        for name, other in [("", layout), *changed]
        for stage in range(layout.zero.stage + 1, 4)
        if layout.ranks > 1
    ]
    sizes = parameter_sizes(model, config.optimizer, config.lora, config.ema.decay > 0, layout.tensor_ranks)
    needs = ((name, footprint(model, other, sizes).peak.total) for name, other in changed)
    return list(islice((f"{name} needs {gigabytes(peak)}" for name, peak in needs if peak < room.device), MENDS))
