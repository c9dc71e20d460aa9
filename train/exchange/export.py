"""`headrace export`: a run or a checkpoint as a Hugging Face folder or a GGUF file, proven equal."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb


@dataclass
class ExportConfig:
    """What is exported, and as what.

    Args:
        source: a run's folder or a checkpoint.
        output: folder, or with `format=gguf` file, that must not exist.
        format: `hf` or `gguf`.
        dtype: of the weights: `float32`, `bfloat16`, `float16`; with `format=gguf` `float32`, `float16`, `q8_0`.
        shard_bytes: most bytes of tensors in one safetensors file.
        proof: `transformers` or `own`: who reads the folder back; a GGUF file is read back by our own reader.
        average: take the average of the weights that training has kept (`ema.decay`).
    """

    source: str = "???"
    output: str = "???"
    format: str = "hf"
    dtype: str = "float32"
    shard_bytes: int = 5_000_000_000
    proof: str = "transformers"
    average: bool = False


def run(request: Request) -> int:
    """Export, print what was proven; returns 0."""

    composed = request.compose("export", ExportConfig)
    if composed is None:
        return 0
    record = export(composed.value)
    print(json.dumps(record, ensure_ascii=False) if request.json else said(composed.value.output, record))
    return 0


def export(config: ExportConfig) -> dict[str, Any]:
    """Export as the settings say; return what was written and proven.

    Raises:
        UserError: settings that can't be met.
        Failure: the checkpoint is damaged, or the proof fails; nothing is left behind.
    """
    from train.exchange import gguf_file
    from train.exchange.checkpoint_source import open_source
    from train.exchange.gguf_export import export_gguf
    from train.exchange.hugging_face import DTYPES, export_folder
    from train.exchange.staging import require_absent
    from train.exchange.transformers_side import choose_prover

    dtypes = {"hf": tuple(DTYPES), "gguf": gguf_file.DTYPES}
    if config.format not in dtypes:
        raise UserError(f"format={config.format}: there are {' and '.join(dtypes)}")
    if config.dtype not in dtypes[config.format]:
        raise UserError(f"dtype={config.dtype}: format={config.format} has {', '.join(dtypes[config.format])}")
    if config.shard_bytes < 1:
        raise UserError(f"shard_bytes={config.shard_bytes} must be at least 1")
    output = Path(config.output)
    require_absent(output)
    if config.format == "gguf":
        gguf_file.gguf_package()
        return export_gguf(open_source(Path(config.source), config.average), output, config.dtype)
    prover = choose_prover(config.proof)
    source = open_source(Path(config.source), config.average)
    return export_folder(source, output, config.dtype, config.shard_bytes, prover)


def said(output: str, record: dict[str, Any]) -> str:
    """Return what was exported and proven, as lines for a person."""
    proof = record["proof"]
    size = sum(entry["bytes"] for entry in record["files"].values())
    lines = [
        f"{output}: {len(record['files'])} files, {size:,} bytes, weights in {record['dtype']}",
        f"read back by {proof['by']}: logits of {proof['tokens']} tokens differ by {proof['difference']:.2g} at most "
        f"({proof['allowed']:.2g} allowed), tokenizer alike",
    ]
    if proof["rounding_divergence"] is not None:
        lines.append(f"rounding moved the predictions by {proof['rounding_divergence']:.2g} nats per token")
    return "\n".join(lines)


VERB = Verb(
    name="export",
    summary="a run or a checkpoint as a Hugging Face folder or a GGUF file, proven equal",
    run=run,
    keys=(
        ("source", "a run's folder or a checkpoint"),
        ("average=true", "the average of the weights, of a run with ema.decay"),
        ("output", "the new folder, or with format=gguf the new file"),
        ("format", "hf or gguf"),
        ("dtype", "float32, bfloat16 or float16; for gguf float32, float16 or q8_0"),
        ("shard_bytes", "most bytes of one safetensors file"),
        ("proof", "transformers, or own where that isn't installed"),
    ),
    examples=(
        "headrace export source=runs/demo output=exports/demo",
        "headrace export source=runs/big/checkpoints/step-00100000 output=exports/big dtype=bfloat16",
        "headrace export source=runs/demo output=demo.gguf format=gguf dtype=q8_0",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
