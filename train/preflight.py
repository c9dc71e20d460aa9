"""All that can be settled before a process group, a weight or a GPU: data, model, batch, run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.dataset import Dataset, check_cache, open_dataset, open_in_storage_order, open_training, stage_tokens
from data_pipeline.foundation.configuration import Composed
from data_pipeline.foundation.errors import UserError
from data_pipeline.sequences import Sequences
from data_pipeline.tokenization.token_bytes import token_bytes
from data_pipeline.tokenization.tokenizer import Tokenizer, load_tokenizer
from train.batch import BatchPlan, plan_batches
from train.model.transformer import Transformer, TransformerConfig
from train.run_folder import RunFolder, check_run, locate_run
from train.settings import TrainConfig, check_settings, plan_run


@dataclass(frozen=True)
class Prepared:
    """What a run consists of, checked to fit together.

    Args:
        model: resolved configuration.
        parameters: of the model, tied ones counted once.
        token_bytes: (vocabulary,) bytes of text that each token stands for.
        lineage: run, dataset and settings by name and fingerprint.
    """

    model: TransformerConfig
    parameters: int
    batch: BatchPlan
    training: Sequences
    validation: Sequences
    dataset: Dataset
    tokenizer: Tokenizer
    token_bytes: NDArray[np.int64]
    run: RunFolder
    lineage: dict[str, Any]

    def lines(self, config: TrainConfig) -> list[str]:
        """Return what is about to happen, for a person."""
        batch, order = self.batch, self.training.order
        last = order.steps.segment(config.steps - 1)
        accumulation = last.sequences // batch.micro // batch.ranks
        tokens = sum(stage_tokens(order.steps.segments, config.steps).values())
        flops = self.model.flops_per_token(config.data.sequence_length) * tokens
        passes = ", ".join(
            f"{count / line.length:.2f} epochs" + (f" of {source}" if source else "")
            for source, count, line in zip(self.training.sources, order.consumed(config.steps), order.lines)
        )
        return [
            f"run      {self.run.path}",
            f"model    {self.model.name}: {self.parameters:,} parameters, vocabulary {self.model.vocabulary_size:,}",
            f"data     {self.dataset.files.name}: {self.dataset.manifest.splits['train'].tokens:,} tokens to train on",
            f"batch    {last.sequences} sequences × {last.length} tokens = {last.sequences * last.length:,} tokens a "
            f"step (micro {batch.micro} × accumulation {accumulation} × {batch.ranks} ranks)",
            *(
                [f"         after {len(order.steps.segments) - 1} changes on the way"]
                if len(order.steps.segments) > 1
                else []
            ),
            f"steps    {config.steps:,}: {tokens:,} tokens, {passes}, {flops:.2e} FLOPs",
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
    dataset = open_dataset(config.data)
    manifest = dataset.manifest
    tokenizer = load_tokenizer(dataset.files.folder / "tokenizer")
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        raise UserError(
            f"{dataset.files.name}/tokenizer is not the tokenizer that the dataset's tokens were made with: "
            "restore it, or prepare the dataset again"
        )
    model = config.model.resolve(manifest.vocabulary_size, packed=config.data.packing == "best_fit")
    training = open_training(dataset, config.seed, segments, config.steps)
    validation = open_in_storage_order(dataset, config.validation.split)
    check_cache(dataset, training, validation)
    for split in (training, validation) if config.data.bad_shards == "stop" else (validation,):
        split.store.require_files()
    run = locate_run(composed, manifest.fingerprint)
    check_run(run, composed)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Transformer(model).parameters())
    assert model.vocabulary_size is not None
    return Prepared(
        model=model,
        parameters=parameters,
        batch=batch,
        training=training,
        validation=validation,
        dataset=dataset,
        tokenizer=tokenizer,
        token_bytes=token_bytes(tokenizer, model.vocabulary_size),
        run=run,
        lineage={"run": run.name, "dataset": manifest.fingerprint, "configuration": run.fingerprint},
    )
