"""Each method, from a loaded model to what is written of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from data_pipeline.foundation.progress import Task
from train.compress.calibration import Calibration, Gram, walk_blocks
from train.compress.gptq import gptq
from train.compress.parent import Parent
from train.compress.rounding import round_to_nearest
from train.compress.settings import MethodConfig, is_table
from train.compress.sparsity import PATTERNS, keep_largest, keep_pattern, magnitude_scores, wanda_scores
from train.compress.structure import measure_importance, narrowed, without_layers
from train.model.layers import Linear
from train.model.quantized import Packed
from train.model.transformer import TransformerConfig


@dataclass(frozen=True)
class Compressed:
    """What a method has made.

    Args:
        parameters: that aren't quantized, by name.
        packed: those that are.
        described: what `model.json` says of it, beside the model's shape.
        found: what the method learnt of the model, for the record.
    """

    config: TransformerConfig
    parameters: dict[str, Tensor]
    packed: dict[str, Packed] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many weights it has."""
        rows_and_columns = (each.shape for each in self.packed.values())
        return sum(values.numel() for values in self.parameters.values()) + sum(n * k for n, k in rows_and_columns)


def compress_model(method: MethodConfig, parent: Parent, calibration: Calibration | None) -> Compressed:
    """Return the compressed model. The parent's own weights may be changed on the way: it is used up.

    Args:
        calibration: for methods that learn from text.
    """
    if method.kind == "quantization":
        return quantize(method, parent, calibration)
    if method.kind in ("magnitude", "wanda"):
        return prune(method, parent, calibration)
    assert calibration is not None
    model = parent.loaded.model
    importance = measure_importance(model, calibration)
    described = {key: parent.description[key] for key in ("pruning",) if key in parent.description}
    if method.kind == "depth":
        config, left, gone = without_layers(model.config, parent.parameters, importance, method.layers)
        found = {"layers_left_out": gone, "block_influence": importance.blocks.tolist()}
        return Compressed(config, left, described=described, found=found)
    config, left = narrowed(
        model.config,
        parent.parameters,
        importance,
        method.hidden_width or model.config.hidden_width,
        method.key_value_heads or model.config.key_value_heads,
    )
    return Compressed(config, left, described=described)


def quantize(method: MethodConfig, parent: Parent, calibration: Calibration | None) -> Compressed:
    """Quantize every matrix: blocks, and a head of its own, by the method's rounding, an embedding to the nearest.

    An embedding's rows are looked up, not multiplied by anything: GPTQ has nothing to make up for there.
    """
    model = parent.loaded.model
    clip = method.clip is not False
    packed: dict[str, Packed] = {}
    parameters = parent.parameters
    matrices = [name for name, values in parameters.items() if values.dim() == 2]
    tables = [name for name in matrices if is_table(name)]
    for name in tables if method.rounding == "nearest" else ["embedding.weight"]:
        packed[name] = round_to_nearest(parameters[name], method.embedding_scheme, clip)
        parameters[name].copy_(packed[name].values())
    if method.rounding == "gptq":

        def change(number: int, layers: dict[str, Linear], grams: dict[str, Gram]) -> None:
            for path, layer in layers.items():
                each = gptq(layer.weight.detach(), grams[path].values, method.scheme, method.damping, clip)
                packed[f"blocks.{number}.{path}.weight"] = each
                layer.weight.data.copy_(each.values())

        assert calibration is not None
        final = walk_blocks(model, calibration, change, "quantize")
        if "head.weight" in tables:
            gram = Gram(final.shape[-1], final.device)
            gram.add(final)
            head = parameters["head.weight"]
            packed["head.weight"] = gptq(head, gram.values, method.embedding_scheme, method.damping, clip)
    else:
        with Task("quantize", len(matrices), "matrices") as task:
            for name in matrices:
                if name not in packed:
                    packed[name] = round_to_nearest(parameters[name], method.scheme, clip)
                task.advance(1)
    return Compressed(
        config=model.config,
        parameters={name: values for name, values in parameters.items() if name not in packed},
        packed=packed,
        described={"quantization": method.settings()},
    )


def prune(method: MethodConfig, parent: Parent, calibration: Calibration | None) -> Compressed:
    """Set weights within the blocks to zero; embedding and head stay."""
    model = parent.loaded.model

    def zero(layer: Linear, scores: Tensor, by_row: bool) -> None:
        if method.pattern:
            kept = keep_pattern(scores, *PATTERNS[method.pattern])
        else:
            kept = keep_largest(scores, method.share, by_row)
        layer.weight.data.mul_(kept)

    if method.kind == "magnitude":
        for layer in model.blocks.modules():
            if isinstance(layer, Linear):
                zero(layer, magnitude_scores(layer.weight.detach()), by_row=False)
    else:
        assert calibration is not None

        def change(number: int, layers: dict[str, Linear], grams: dict[str, Gram]) -> None:
            for path, layer in layers.items():
                zero(layer, wanda_scores(layer.weight.detach(), grams[path].norms), by_row=True)

        walk_blocks(model, calibration, change, "prune")
    linear = [layer.weight for layer in model.blocks.modules() if isinstance(layer, Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in linear) / sum(weight.numel() for weight in linear)
    return Compressed(
        model.config, parent.parameters, described={"pruning": method.settings()}, found={"zeros_in_blocks": zeros}
    )
