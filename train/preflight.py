"""All that can be settled before a process group, a weight or a GPU: data, model, batch, run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.dataset import stage_tokens
from data_pipeline.foundation.configuration import Composed
from data_pipeline.tokenization.token_bytes import token_bytes
from train.batch import BatchPlan, plan_batches
from train.frozen import Frozen, find_frozen
from train.model.adapters import attach_adapters
from train.model.transformer import Transformer, TransformerConfig
from train.objective import check_objective_data
from train.run_data import RunData, open_run_data
from train.run_folder import RunFolder, check_run, locate_run
from train.settings import TrainConfig, check_settings, plan_run
from train.start import Start, find_start


@dataclass(frozen=True)
class Prepared:
    """What a run consists of, checked to fit together.

    Args:
        model: resolved configuration.
        parameters: of the model, tied ones counted once.
        trained: how many of them are, or are in adapters.
        token_bytes: (vocabulary,) bytes of text that each token stands for.
        lineage: run, dataset and settings by name and fingerprint.
        start: whose weights a new run begins with; its own, drawn at random, if None.
        frozen: the model that the objective holds this one to; most need none.
    """

    model: TransformerConfig
    parameters: int
    trained: int
    batch: BatchPlan
    data: RunData
    token_bytes: NDArray[np.int64]
    run: RunFolder
    lineage: dict[str, Any]
    start: Start | None
    frozen: Frozen | None = None

    def lines(self, config: TrainConfig) -> list[str]:
        """Return what is about to happen, for a person."""
        batch, steps = self.batch, self.data.steps
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
                [f"lora     rank {config.lora.rank}: {self.trained:,} parameters in adapters"]
                if config.lora.rank
                else []
            ),
            f"data     {self.data.describe(config.steps)}",
            f"batch    {last.sequences} sequences × {last.length} tokens = {last.sequences * last.length:,} tokens a "
            f"step (micro {batch.micro} × accumulation {accumulation} × {batch.ranks} ranks)",
            *([f"         after {changes} changes on the way"] if changes else []),
            f"steps    {config.steps:,}: {tokens:,} tokens, {flops:.2e} FLOPs",
            f"engine   ZeRO {config.zero.stage}, {config.precision.kind}",
        ]


def prepare_run(composed: Composed[TrainConfig], ranks: int) -> Prepared:
    """Check settings, data, model and run folder against each other; change nothing.

    Raises:
        UserError: something doesn't fit; the message names it.
        Failure: the dataset is damaged, or its server can't be reached.
    """
    config = composed.value
    check_settings(config)
    segments = plan_run(config)
    batch = plan_batches(config.batch, segments, ranks)
    data = open_run_data(config, segments)
    run = locate_run(composed, data.fingerprint)
    start = find_start(config.model, config.start_from, run, data.tokenizer, data.name, composed.overrides)
    shape = start.model if start else config.model
    model = shape.resolve(data.tokenizer.vocabulary_size, packed=config.data.packing == "best_fit")
    check_objective_data(config.objective, data.samples, bool(model.document_mask), data.name)
    frozen = find_frozen(config, model, run, data.tokenizer, data.name)
    check_run(run, composed)
    with torch.device("meta"):
        module = Transformer(model)
        parameters = trained = sum(parameter.numel() for parameter in module.parameters())
        if config.lora.rank:
            attach_adapters(module, config.lora)
            trained = sum(parameter.numel() for parameter in module.parameters()) - parameters
    assert model.vocabulary_size is not None
    return Prepared(
        model=model,
        parameters=parameters,
        trained=trained,
        batch=batch,
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
