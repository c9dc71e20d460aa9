"""The model inside DeepSpeed: built, initialised, stepped and evaluated the same way at every ZeRO stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.loader import Batch
from train import compilation
from train.batch import BatchPlan
from train.checkpoint.pieces import torch_optimizer
from train.compilation import compile_blocks, compile_model, keep_between_runs, uncompiled
from train.deepspeed_settings import ZeroConfig, deepspeed_settings
from train.distributed import World
from train.ema import EmaConfig, follow
from train.extensions import import_deepspeed
from train.float8 import multiply_in_float8
from train.matrix_exchange import matrices_by_master
from train.model.adapters import LoraConfig, attach_adapters, freeze
from train.model.compressible import QuantizationAwareConfig, view_weights
from train.model.experts import router_figures
from train.model.initialisation import initialise_parameter
from train.model.recomputation import BLOCKS, recomputation
from train.model.split_layers import split_axis
from train.model.transformer import Block, Transformer, TransformerConfig
from train.muon import Muon
from train.objective import Objective
from train.optimizer import OptimizerConfig, build_optimizer, by_role, shapes_of
from train.parallel import ParallelConfig
from train.place import Place, find_place
from train.precision import DTYPES, PrecisionConfig
from train.reduction import reduce_in_place, sums_in_place
from train.stragglers import DeviceClock
from train.update import Update

Judge = Callable[[float, float], str | None]


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Args:
        loss: mean over the targets of the whole batch, before the update.
        gradient_norm: before clipping.
        targets: of the whole batch, as the objective counts them: tokens, or pairs.
        tokens: of the whole batch that are targets.
        busy_seconds: (ranks,) that each rank took for reading and the forward passes of the step before.
        refused: why no update was made, if none was.
        overflowed: whether fp16 has overflowed, and DeepSpeed lowered its loss scale instead of an update.
        figures: what else there is to tell: of routers.
    """

    loss: float
    gradient_norm: float
    targets: int
    tokens: int
    busy_seconds: list[float]
    refused: str | None = None
    overflowed: bool = False
    figures: dict[str, float] = field(default_factory=dict)


class Engine:
    """A DeepSpeed-wrapped Transformer.

    Args:
        model: resolved configuration.
        seed: of the initial weights.
        world: the processes, already joined.
        activation_checkpointing: recompute blocks in the backward pass instead of keeping their activations.
        recomputed: what of them, as `train/model/recomputation.py` names it.
        passed_through: more options for DeepSpeed, already checked.
        lora: adapters; with a rank all other weights are frozen, and have no value before some are loaded.
        quantization: that the weights are seen through.
        pruned: the zeros of the blocks' matrices stay.
        compiled: what runs as compiled graphs, as `train/compilation.py` names it; None for nothing.
        ema: of the weights.
        parallel: how ranks share the work; `place` is this rank's.

    Attributes:
        partition: which of ZeRO's `partitions` is this rank's; there are as many as ranks that hold the same part.

    Raises:
        UserError: DeepSpeed refuses its configuration.
        Failure: DeepSpeed leaves out that the model be compiled with ZeRO.
    """

    def __init__(
        self,
        model: TransformerConfig,
        seed: int,
        world: World,
        batch: BatchPlan,
        zero: ZeroConfig,
        precision: PrecisionConfig,
        optimizer: OptimizerConfig,
        activation_checkpointing: bool = False,
        passed_through: dict[str, Any] | None = None,
        lora: LoraConfig | None = None,
        quantization: QuantizationAwareConfig | None = None,
        pruned: bool = False,
        compiled: str | None = None,
        ema: EmaConfig | None = None,
        recomputed: str = BLOCKS,
        parallel: ParallelConfig | None = None,
    ):
        deepspeed = import_deepspeed()
        self.world, self.stage, self.lora = world, zero.stage, lora or LoraConfig()
        self.ema = ema or EmaConfig()
        self.place = find_place(parallel or ParallelConfig(), world)
        among = self.place.partitioning
        self.partition, self.partitions = torch.distributed.get_rank(among), torch.distributed.get_world_size(among)
        # To DeepSpeed all ranks that partition are alike, as if each read sequences of its own: it reduces gradients
        # over all of them.
        batch = replace(batch, sequences=batch.micro * batch.accumulation * self.partitions, ranks=self.partitions)
        self.batch = batch
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
        in_graph = compiled == compilation.DEEPCOMPILE
        settings = deepspeed_settings(batch, zero, precision, optimizer.clip_norm, passed_through or {}, in_graph)
        try:
            dtype, base = DTYPES[precision.kind], optimizer.base_width
            # It keeps this for the whole process, and engines may come one after another.
            deepspeed.utils.groups.mpu = None
            module = _build(model, seed, world, self.place, zero.stage, settings, self.lora, dtype, base)
            module.checkpoint_activations, module.recomputation = activation_checkpointing, recomputation(recomputed)
            module.share_sequences(self.place.shared)
            if precision.kind == "fp8":
                multiply_in_float8(module)
            view_weights(module, quantization or QuantizationAwareConfig(), pruned)
            if compiled == compilation.BLOCKS and zero.stage == 3:
                # A block's weights are gathered together, by hooks around it: within what is compiled there are none.
                deepspeed.utils.set_z3_leaf_modules(module, [Block])
            self.deepspeed, *_ = deepspeed.initialize(
                model=module,
                optimizer=build_optimizer(optimizer, module),
                config=settings,
                mpu=self.place.unit,
                dist_init_required=False,
            )
        except ValueError as error:  # pydantic's ValidationError among them
            raise UserError(f"DeepSpeed refuses its configuration: {' '.join(str(error).split())}") from None
        if self.partitions == 1 and zero.stage == 0:
            # Nobody to sum with: DeepSpeed would copy all gradients into one flat tensor and back.
            self.deepspeed.enable_backward_allreduce = False
        is_gpu, is_fp32 = world.device.type != "cpu", precision.kind == "fp32"
        if sums_in_place(zero, self.partitions, is_gpu, is_fp32) and not passed_through:
            reduce_in_place(self.deepspeed.optimizer, among)
        if compiled == compilation.BLOCKS:
            compile_blocks(self.module)
        elif compiled == compilation.MODEL:
            compile_model(self.module)
        elif compiled:
            self._compile_with_zero()
        self._without_learning = uncompiled if in_graph else nullcontext
        stepped = torch_optimizer(self)
        if isinstance(stepped, Muon) and zero.stage:
            groups = by_role(shapes_of(module), optimizer, model.width)
            orthogonal = {name for role, members in groups.items() if role.orthogonal for name, _ in members}
            stepped.matrices = matrices_by_master(self, orthogonal, zero.gather_bucket)
        self.update = Update(self.deepspeed, zero.stage, optimizer.clip_norm, self.place.split)
        self._forward = DeviceClock(world.device)

    @property
    def module(self) -> Transformer:
        return self.deepspeed.module

    def train_step(
        self, batches: Sequence[Batch], objective: Objective, rate: float, judge: Judge, waited: float = 0.0
    ) -> StepResult:
        """Learn from one step's micro-batches, unless their numbers are bad.

        The loss is the mean over the targets of the whole step, over all ranks and micro-batches: each summed loss is
        divided by the number of targets of the step, which a mean of means would get wrong where they differ.

        Args:
            batches: this rank's micro-batches, or parts of them, as many as the step has on every rank.
            rate: the learning rate.
            judge: told loss and gradient norm, says why no update shall be made, or None.
            waited: seconds that this rank waited for data in the step before.
        """
        self._accumulate(len(batches))
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        device = self.world.device
        counts = sum(map(objective.target_count, batches)), sum(batch.counted_targets for batch in batches)
        told = self._announce(counts, waited + self._forward.take())
        # DeepSpeed takes the mean over ranks and micro-batches; this factor turns it into the sum over targets.
        factor = (self.batch.ranks * len(batches) / told[0].clamp(min=1.0)).float()
        summed = torch.zeros((), dtype=torch.float64, device=device)
        for number, batch in enumerate(batches, 1):
            with self._forward.measuring():
                loss = objective.summed_loss(self.deepspeed, self._on_device(batch))
            summed += loss.detach()
            self.deepspeed.backward(loss * factor)
            if number < len(batches):
                self.deepspeed.step()
        # The one place of a step where a GPU is waited for: what it comes to is judged before the update.
        counted = self.world.sum(self._counted(torch.cat((summed.view(1), self._router_tally()))))
        norm, *numbers = torch.cat((self.update.gradient_norm().double().view(1), told, counted)).tolist()
        targets, tokens, busy = int(numbers[0]), int(numbers[1]), numbers[2 : 2 + self.world.size]
        total, *routed = numbers[2 + self.world.size :]
        mean = total / max(1, targets)
        figures = router_figures(routed, self.module.config.layers, targets) if routed else {}
        # Where fp16's scaled gradients overflow, DeepSpeed skips the update by itself, with another scale for the next.
        overflows = self.deepspeed.fp16_enabled() and math.isfinite(mean) and not math.isfinite(norm)
        refused = None if overflows else judge(mean, norm)
        if refused is None:
            made = self.update.take(norm)
            if made and self.ema.decay:
                follow(self, self.ema.decay)
            return StepResult(mean, norm, targets, tokens, busy, overflowed=not made, figures=figures)
        self.update.drop()
        return StepResult(mean, norm, targets, tokens, busy, refused, figures=figures)

    @torch.no_grad()
    def held_out(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Return this rank's summed figures of a batch, without learning. Every rank must call it equally often."""
        with self._without_learning():
            figures = objective.held_out(self.deepspeed, self._on_device(batch))
        return {name: float(figure) for name, figure in figures.items()}

    @contextmanager
    def evaluating(self) -> Iterator[Callable[..., Tensor]]:
        """Give the model for inference: gradients off, evaluation mode. At stage 3 all ranks must call it alike."""
        self.deepspeed.eval()
        try:
            with torch.no_grad(), self._without_learning():
                yield self.deepspeed
        finally:
            self.deepspeed.train()

    @contextmanager
    def whole(self) -> Iterator[Transformer]:
        """Give the model with all its weights on this rank, for inference at the rank's own pace.

        At stage 3, and where ranks split the model, that is a copy, gathered once, for which all ranks must call it;
        else it is the model itself.
        """
        with self.evaluating():
            yield self._gathered() if self.stage == 3 or self.place.split else self.module

    def close(self) -> None:
        self.deepspeed.destroy()

    def _compile_with_zero(self) -> None:
        keep_between_runs()
        self.deepspeed.compile(compile_kwargs={"fullgraph": True})
        if not self.deepspeed.is_deepcompile_active():
            kind = compilation.DEEPCOMPILE
            raise Failure(f"compiled={kind}: DeepSpeed would leave that out; use compiled={compilation.BLOCKS}")

    def _gathered(self) -> Transformer:
        gathered = import_deepspeed().zero.GatheredParameters
        with self.world.device:
            copy = Transformer(self.module.config)
        if self.lora.rank:
            freeze(copy, self.module.norm.weight.dtype)
            with self.world.device:
                attach_adapters(copy, self.lora)
        for (_, mine), (_, other) in zip(self.module.named_buffers(), copy.named_buffers(), strict=True):
            other.copy_(mine)
        split = self.place.split
        for (name, mine), other in zip(self.module.named_parameters(), copy.parameters(), strict=True):
            with gathered(mine) if self.stage == 3 else nullcontext():
                whole = mine.data if split is None else split.whole(name, mine.data)
                other.data = whole.to(other.device, copy=True)
        return copy.eval()

    def _announce(self, counts: tuple[int, int], busy_seconds: float) -> Tensor:
        """Return targets and tokens of all ranks together, and what time each tells of itself, in one all-reduce.

        Returns:
            (2 + ranks,) float64 on the device, where nobody waits for it.
        """
        others = [0.0] * self.world.size
        others[self.world.rank] = busy_seconds
        counted = self._counted(torch.tensor(counts, dtype=torch.float64))
        told = torch.cat((counted, torch.tensor(others, dtype=torch.float64)))
        return self.world.sum(told.to(self.world.device, non_blocking=True))

    def _counted(self, values: Tensor) -> Tensor:
        """Return what goes into a sum over all ranks of what each comes to on the sequences that it reads."""
        return values if self.place.counts else torch.zeros_like(values)

    def _router_tally(self) -> Tensor:
        """Return what this rank's routers did since they were asked last; nothing without any."""
        tally, self.module.tally = self.module.tally, None
        return torch.zeros(0, dtype=torch.float64, device=self.world.device) if tally is None else tally.flat()

    def _accumulate(self, micro_batches: int) -> None:
        """Tell DeepSpeed how many micro-batches a step has, where it isn't as many as in the step before."""
        engine = self.deepspeed
        if micro_batches == engine.gradient_accumulation_steps():
            return
        engine.set_train_batch_size(micro_batches * self.batch.micro * self.batch.ranks)
        # It counts micro-batches from the beginning of the run, and finds a step's last one by their remainder.
        engine.micro_steps = 0
        if hasattr(engine.optimizer, "gradient_accumulation_steps"):
            engine.optimizer.gradient_accumulation_steps = micro_batches

    def _on_device(self, batch: Batch) -> Batch:
        device = self.world.device
        return replace(
            batch,
            tokens=batch.tokens.to(device, non_blocking=True),
            targets=batch.targets.to(device, non_blocking=True),
        )


def _build(
    config: TransformerConfig,
    seed: int,
    world: World,
    place: Place,
    stage: int,
    settings: dict[str, Any],
    lora: LoraConfig,
    dtype: torch.dtype,
    base_width: int | None,
) -> Transformer:
    """Build and initialise the model; at stage 3 what is trained is partitioned while it is built, never whole.

    A parameter that is split over ranks is made whole, one at a time, so that it begins as the model's on one rank.
    """
    deepspeed = import_deepspeed()
    split, among = place.split, place.partitioning
    trained: Any = world.device
    if stage == 3:
        trained = deepspeed.zero.Init(config_dict_or_path=settings, mpu=place.unit, data_parallel_group=among)
    with world.device if lora.rank else trained:
        module = Transformer(config, split)
    if lora.rank:
        freeze(module, dtype)
        with trained:
            attach_adapters(module, lora)
    for name, parameter in module.named_parameters():
        whole = deepspeed.zero.GatheredParameters(parameter, modifier_rank=0) if stage == 3 else nullcontext()
        with whole:
            if stage == 3 and torch.distributed.get_rank(among):
                continue
            if split is None or split_axis(name) is None:
                initialise_parameter(name, parameter.data, config, seed, base_width)
                continue
            values = parameter.data.new_empty(split.located(name, parameter.shape).shape)
            initialise_parameter(name, values, config, seed, base_width)
            parameter.data.copy_(split.part(name, values))
    return module
