"""The small model of the engine's runs in plain PyTorch: the reference that DeepSpeed's stages are compared with."""

from __future__ import annotations

import torch
from engine_runs import MODEL, SEED, rate, whole_batch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig


def plain_model(config: TransformerConfig = MODEL) -> tuple[Transformer, torch.optim.Optimizer]:
    """Return the model as every run begins with it, and an AdamW that decays matrices alone."""
    model = Transformer(config)
    initialise_weights(model, config, SEED)
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.dim() >= 2 and name != "embedding.weight"]
    others = [p for name, p in named.items() if p.dim() == 1 or name == "embedding.weight"]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False)


def plain_loss(model: Transformer, optimizer: torch.optim.Optimizer, step: int, sequences: int) -> Tensor:
    """Set the rate of a step, and return the loss on so many of its sequences, from whole logits."""
    for group in optimizer.param_groups:
        group["lr"] = rate(step)
    tokens, targets = (each[:sequences] for each in whole_batch(step))
    return cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1)
