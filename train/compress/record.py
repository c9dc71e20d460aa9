"""`compression.json`: what was compressed, how, what it was measured at before and after; as a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from train.compress.measure import Speed

RECORD = "compression.json"
NOTES = {
    "unstructured": "Unstructured zeros make nothing faster or smaller here: matrices are stored and multiplied whole. "
    "They are worth something where a format or kernel skips them.",
    "2:4": "2:4 zeros make nothing faster or smaller here: matrices are stored and multiplied whole. GPUs with sparse "
    "tensor cores can skip them, with weights in their own format.",
    "quantization": "Weights are restored block by block within each product, in float32. On a CPU up to 8 rows are "
    "multiplied by PyTorch's kernels instead, in bfloat16: at four bits in groups of 32, 64, 128 or 256, and at eight "
    "with a scale for each row (method.group=0).",
    "structure": "An ordinary smaller model. Heal it: headrace train objective=distillation start_from={output} "
    "objective.teacher={source} …",
    "pruned_training": "`train start_from=` this checkpoint keeps its zeros.",
    "pruned_parent": "The parent's zeros are rounded as other values are, and need not stay zeros.",
}


def compression_record(
    *,
    method: dict[str, Any],
    origin: dict[str, Any],
    calibration: dict[str, Any] | None,
    found: dict[str, Any],
    parameters: dict[str, int],
    sizes: dict[str, int],
    texts: dict[str, dict[str, dict[str, Any]]],
    tasks: dict[str, dict[str, Any]],
    speeds: dict[str, Speed],
    notes: list[str],
) -> dict[str, Any]:
    """Return what `compression.json` holds. What was measured has the keys `before` and `after`.

    Args:
        texts: by `before` and `after`, then by name, as `scores_of` gives them.
        tasks: likewise.
    """
    domains = {
        name: {
            "before": before,
            "after": texts["after"][name],
            "perplexity_change": texts["after"][name]["perplexity"] / before["perplexity"] - 1,
        }
        for name, before in texts["before"].items()
    }
    return {
        "format_version": 1,
        "method": method,
        "parent": origin,
        "calibration": calibration,
        "found": found,
        "parameters": parameters,
        "bytes": sizes | {"share": sizes["after"] / sizes["before"]},
        "texts": domains,
        "tasks": {name: {when: scores[name] for when, scores in tasks.items()} for name in tasks["before"]},
        "tokens_per_second": {when: asdict(speed) for when, speed in speeds.items()},
        "notes": notes,
    }


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: what, before, after, change."""
    parameters, sizes = record["parameters"], record["bytes"]
    rows = [
        ("parameters", f"{parameters['before']:,}", f"{parameters['after']:,}", _change(**parameters)),
        ("bytes", f"{sizes['before']:,}", f"{sizes['after']:,}", f"× {sizes['share']:.3f}"),
    ]
    for name, text in record["texts"].items():
        before, after = text["before"], text["after"]
        rows.append((f"bits per byte, {name}", *_pair(before["bits_per_byte"], after["bits_per_byte"])))
        rows.append((f"perplexity, {name}", *_pair(before["perplexity"], after["perplexity"])))
    for name, task in record["tasks"].items():
        after = task["after"]["scores"]
        for label, score in task["before"]["scores"].items():
            rows.append((f"{name}, {label}", *_pair(score["value"], after[label]["value"])))
    speeds = record["tokens_per_second"]
    for kind, what in (("prefill", "prefill, tokens/s"), ("decode", "decode, tokens/s")):
        before, after = speeds["before"][kind], speeds["after"][kind]
        rows.append((what, f"{before:,.1f}", f"{after:,.1f}", f"× {after / before:.2f}"))
    return rows


def said(output: str, record: dict[str, Any]) -> str:
    """Return the table and its notes as lines for a person."""
    rows = [("", "before", "after", "change"), *rows_of(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([f"{output}: {described(record['method'])}", *lines, *record["notes"]])


def described(method: dict[str, Any]) -> str:
    """Return a method and its settings in one line."""
    settings = ", ".join(f"{key} {value}" for key, value in method.items() if key != "kind" and value is not None)
    return f"{method['kind']} ({settings})"


def figures_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a model card says of a compressed model, as one flat table."""
    figures: dict[str, Any] = {"method": described(record["method"])}
    if record["calibration"]:
        figures["calibration"] = ", ".join(f"{key} {value}" for key, value in record["calibration"].items())
    for name, before, after, change in rows_of(record):
        figures[name] = f"{before} → {after} ({change})"
    if record["method"]["kind"] == "quantization":
        figures["weights_here"] = "restored from codes, in the precision above: no smaller than the parent's"
    return figures


def _pair(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.4f}", f"{after:.4f}", _change(before, after)


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.2%}" if before else ""
