"""What `headrace compress` is told: the root of `conf/compress.yaml`, and what can't work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from data_pipeline.foundation.errors import UserError
from train.compress.calibration import CalibrationConfig
from train.compress.sparsity import PATTERNS
from train.model.quantized import BITS, Scheme
from train.model.transformer import TransformerConfig

KINDS = ("quantization", "magnitude", "wanda", "depth", "width")
ROUNDINGS = ("nearest", "gptq")


@dataclass
class MethodConfig:
    """How a model is made smaller.

    Args:
        kind: of `KINDS`.
        bits: of a quantized weight, 8 or 4.
        group: neighbours in a row that share a scale; 0 is the whole row.
        rounding: `nearest`, or `gptq`, which learns from the calibration text.
        clip: let a grid reach over less than its group's range where that makes the error smaller; None does, but for
            models that were trained on grids that don't.
        embedding_bits: of embedding and head; None is `bits`.
        damping: of GPTQ's second moments, as a share of their mean.
        share: of the weights of each matrix that become zero.
        pattern: `2:4` instead of a share.
        layers: how many are left out.
        hidden_width: channels of each feed-forward layer that stay; None is all.
        key_value_heads: groups of heads that stay in each layer; None is all.
    """

    kind: str = "???"
    bits: int = 4
    group: int = 32
    rounding: str = "nearest"
    clip: bool | None = None
    embedding_bits: int | None = None
    damping: float = 0.01
    share: float = 0.5
    pattern: str | None = None
    layers: int = 1
    hidden_width: int | None = None
    key_value_heads: int | None = None

    @property
    def needs_text(self) -> bool:
        """Whether it learns from calibration text."""
        return self.kind in ("wanda", "depth", "width") or (self.kind == "quantization" and self.rounding == "gptq")

    @property
    def scheme(self) -> Scheme:
        """Of the matrices within blocks."""
        return Scheme(self.bits, self.group)

    @property
    def embedding_scheme(self) -> Scheme:
        """Of embedding and head. Where only they have eight bits a scale for each row will do."""
        bits = self.embedding_bits or self.bits
        return Scheme(bits, 0 if bits == 8 != self.bits else self.group)

    def settings(self) -> dict[str, object]:
        """Return what the method's kind heeds, for the record."""
        heeded = {
            "quantization": ("bits", "group", "rounding", "clip", "embedding_bits", "damping"),
            "magnitude": ("share", "pattern"),
            "wanda": ("share", "pattern"),
            "depth": ("layers",),
            "width": ("hidden_width", "key_value_heads"),
        }[self.kind]
        return {"kind": self.kind} | {key: getattr(self, key) for key in heeded}


@dataclass
class MeasureConfig:
    """What the model is measured on before and after.

    Args:
        texts: files, each a domain of the name of its file.
        data: a dataset, whose validation split is one more; None for that of the source's run.
        tokens: first ones of each text; None for all.
        length: tokens of a window, and of the prompt whose speed is measured.
        tasks: as of `evaluate`.
        task_data: folder that their data lies in.
        limit: first records of each task alone.
        decode: tokens written one by one for their speed.
        rounds: of speeds, before and after in turn; the median counts.
    """

    texts: list[str] = field(default_factory=list)
    data: str | None = None
    tokens: int | None = 100_000
    length: int = 512
    tasks: list[str] = field(default_factory=list)
    task_data: str | None = None
    limit: int | None = None
    decode: int = 32
    rounds: int = 3


@dataclass
class CompressConfig:
    """What is compressed, how, and what it is measured on.

    Args:
        source: a run's folder, a checkpoint or an exported model.
        output: folder of the new checkpoint, which must not exist.
    """

    source: str = "???"
    output: str = "???"
    method: MethodConfig = field(default_factory=MethodConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)


def check_method(method: MethodConfig) -> None:
    """Refuse settings that no model can be compressed with.

    Raises:
        UserError: names the setting and the mend.
    """
    for key, value, known in (
        ("kind", method.kind, KINDS),
        ("rounding", method.rounding, ROUNDINGS),
        ("pattern", method.pattern, (None, *PATTERNS)),
        ("bits", method.bits, BITS),
        ("embedding_bits", method.embedding_bits, (None, *BITS)),
    ):
        if value not in known:
            raise UserError(f"method.{key}={value}: there is {', '.join(str(one) for one in known if one is not None)}")
    if method.group < 0 or (method.bits == 4 and method.group % 2):
        raise UserError(f"method.group={method.group} must be an even number, or 0 for whole rows")
    if not 0 < method.share < 1:
        raise UserError(f"method.share={method.share} must lie between 0 and 1")
    if method.damping <= 0:
        raise UserError(f"method.damping={method.damping} must be above 0")


def check_fits(method: MethodConfig, model: TransformerConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse settings that don't fit a model.

    Args:
        shapes: of its parameters.

    Raises:
        UserError: names the setting and what would fit.
    """
    if model.experts:
        raise UserError(f"a model with experts can't be compressed yet, and this one has {model.experts}")
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    if method.kind == "quantization":
        for name, shape in matrices.items():
            scheme = method.embedding_scheme if is_table(name) else method.scheme
            if scheme.group and shape[1] % scheme.group:
                fits = [
                    size for size in (256, 128, 64, 32, 16, 8) if all(each[1] % size == 0 for each in matrices.values())
                ]
                mend = f"{' or '.join(map(str, fits))} would" if fits else "0, the whole row, would"
                raise UserError(
                    f"method.group={scheme.group} doesn't divide the rows of {name}, which have {shape[1]} values: "
                    f"{mend}"
                )
            if scheme.bits == 4 and shape[1] % 2:
                raise UserError(f"the rows of {name} have {shape[1]} values: four bits need an even number")
    if method.pattern:
        _, of = PATTERNS[method.pattern]
        for name, shape in matrices.items():
            if not is_table(name) and shape[1] % of:
                raise UserError(f"method.pattern={method.pattern} doesn't divide the rows of {name}: {shape[1]} values")
    if method.kind == "depth" and not 1 <= method.layers < model.layers:
        raise UserError(
            f"method.layers={method.layers} of {model.layers} can't be left out: at least one, and one stays"
        )
    if method.kind == "width":
        if method.hidden_width is None and method.key_value_heads is None:
            raise UserError("method=width needs method.hidden_width, method.key_value_heads or both: what is to stay")
        for key in ("hidden_width", "key_value_heads"):
            value, there = getattr(method, key), getattr(model, key)
            if value is not None and not 1 <= value <= there:
                raise UserError(f"method.{key}={value} must lie between 1 and the model's {there}")


def resolved(method: MethodConfig, description: dict[str, Any]) -> MethodConfig:
    """Return the method with what depends on the model filled in: one that was trained on whole grids keeps to them.

    Args:
        description: of its checkpoint, `model.json`.
    """
    if method.kind != "quantization" or method.clip is not None:
        return method
    return replace(method, clip="quantization_aware" not in description)


def is_table(parameter: str) -> bool:
    """Whether a parameter is the embedding or the head."""
    return parameter in ("embedding.weight", "head.weight")
