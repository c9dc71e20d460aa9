"""The README of an export: what it is, where it came from, what was measured, and how it was proven."""

from __future__ import annotations

import json
from typing import Any


def model_card(name: str, settings: dict[str, Any], record: dict[str, Any], parameters: int) -> str:
    """Return a model card in Markdown, with the header that Hugging Face's hub reads.

    Args:
        name: of the model.
        settings: `config.json`.
        record: `headrace.json`.
        parameters: how many there are.
    """
    shape = {
        "architecture": settings["architectures"][0],
        "parameters": f"{parameters:,}",
        "layers": settings["num_hidden_layers"],
        "width": settings["hidden_size"],
        "heads": f"{settings['num_attention_heads']}, of keys and values {settings['num_key_value_heads']}",
        "context": f"{settings['max_position_embeddings']:,} tokens",
        "vocabulary": f"{settings['vocab_size']:,}",
        "precision": record["dtype"],
    }
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [headrace]",
            "---",
            "",
            f"# {name}",
            "",
            "Trained and exported with Headrace.",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model, tokenizer = (kind.from_pretrained(".") for kind in (AutoModelForCausalLM, AutoTokenizer))',
            "```",
            "",
            "## Shape",
            "",
            *_table(shape),
            "",
            "## Measured",
            "",
            *_measured(record["measured"]),
            "## Proof",
            "",
            *_proof(record["proof"]),
            "",
            "## Where it came from",
            "",
            "Fingerprints and hashes are xxh3-128. `headrace.json` has the same, and the hash of every file.",
            "",
            "```json",
            json.dumps(record["lineage"], indent=1, ensure_ascii=False),
            "```",
            "",
        ]
    )


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key.replace('_', ' ')} | {_figure(value)} |" for key, value in rows.items())]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _measured(figures: dict[str, dict[str, Any]]) -> list[str]:
    if not figures:
        return ["Nothing was measured of this checkpoint in its run's folder.", ""]
    lines = []
    titles = {
        "summary.json": "By the run, on its validation split:",
        "evaluation.json": "By `headrace evaluate`:",
        "compression.json": "By `headrace compress`, before and after:",
    }
    for source, values in figures.items():
        lines += [titles[source], "", *_table(values), ""]
    return lines


def _proof(proof: dict[str, Any]) -> list[str]:
    lines = [
        f"Read back by {proof['by']}, the model gave the logits of the checkpoint on {proof['tokens']} tokens of "
        "text in seven languages and code, computed in float32 on both sides: the largest difference is "
        f"{proof['difference']:.2g}, {proof['allowed']:.2g} was allowed (weights rounded alike). The tokenizer cut and "
        "restored the same text alike."
    ]
    if proof["rounding_divergence"] is not None:
        lines.append(
            f"Rounding to {proof['precision']} moved the predictions by {proof['rounding_divergence']:.2g} nats per "
            "token (mean Kullback-Leibler divergence from the float32 weights)."
        )
    return lines
