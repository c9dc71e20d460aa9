"""`headrace import`: a Hugging Face folder or a GGUF file as a checkpoint that trains on, proven equal."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from train.exchange.incoming import Incoming
    from train.exchange.proof import Proof


@dataclass
class ImportConfig:
    """What is taken in.

    Args:
        source: a Hugging Face folder with safetensors, or a GGUF file.
        output: folder of the checkpoint, which must not exist.
        end_of_document: the special token that ends a document; None for what the source says.
        proof: `transformers` or `own`: who reads the source beside us.
    """

    source: str = "???"
    output: str = "???"
    end_of_document: str | None = None
    proof: str = "transformers"


def run(request: Request) -> int:
    """Take a model in, print what was proven; returns 0."""

    composed = request.compose("import", ImportConfig)
    if composed is None:
        return 0
    record = take_in(composed.value)
    print(json.dumps(record, ensure_ascii=False) if request.json else said(composed.value.output, record))
    return 0


def take_in(config: ImportConfig) -> dict[str, Any]:
    """Write the checkpoint and prove it; return what it is and how it was proven.

    Raises:
        UserError: what is there is no model that ours can be, or the output exists.
        Failure: it is damaged, or the proof fails; nothing is left behind.
    """
    from math import prod

    from data_pipeline.foundation.progress import Task
    from train.exchange.architectures import shapes_of
    from train.exchange.new_checkpoint import write_new_checkpoint
    from train.exchange.staging import require_absent, require_room, staged_folder
    from train.exchange.transformers_side import choose_prover

    prover = choose_prover(config.proof)
    output = Path(config.output)
    require_absent(output)
    incoming = open_incoming(Path(config.source), config.end_of_document)
    size = 4 * sum(map(prod, shapes_of(incoming.config).values()))
    require_room(output.parent, size)
    lineage = {"imported": incoming.origin}
    with staged_folder(output) as folder:
        with Task("import", size, "bytes") as task:
            write_new_checkpoint(folder, incoming.config, incoming.tokenizer, incoming.read, lineage, task.advance)
        proof = prove(folder, incoming, prover)
    return {"model": vars(incoming.config), "bytes": size, "proof": proof.figures(), **lineage}


def open_incoming(source: Path, end_of_document: str | None) -> Incoming:
    """Open what a path means. Raises UserError: neither a Hugging Face folder nor a GGUF file."""
    from train.exchange.incoming import open_folder, open_gguf, refuse_pickle

    if source.is_dir():
        return open_folder(source, end_of_document)
    if not source.is_file():
        raise UserError(f"source={source}: there is no such folder or file")
    refuse_pickle(source)
    if source.suffix == ".gguf":
        return open_gguf(source, end_of_document)
    raise UserError(f"source={source} is neither a Hugging Face folder nor a .gguf file")


def prove(folder: Path, incoming: Incoming, prover: str) -> Proof:
    """Compare the checkpoint that was written with its source.

    Raises:
        Failure: they differ.
    """
    from data_pipeline.tokenization.tokenizer import load_tokenizer
    from train.checkpoint.folder import TOKENIZER
    from train.exchange.architectures import shapes_of
    from train.exchange.proof import compare, our_logits, passage_tokens, require_same_tokens
    from train.exchange.transformers_side import transformers_version
    from train.exchange.weights import CheckpointWeights

    tokens = passage_tokens(incoming.tokenizer, incoming.config)
    weights = CheckpointWeights(folder, shapes_of(incoming.config))
    ours = our_logits(incoming.config, weights.read, tokens)
    written = load_tokenizer(folder / TOKENIZER)
    require_same_tokens(incoming.tokenizer, written.encode, written.decode)
    if prover == "own":
        return compare(ours, our_logits(incoming.config, incoming.read, tokens), "our own reader")
    incoming.check_tokenizer()
    return compare(ours, incoming.logits(tokens), f"Transformers {transformers_version()}")


def said(output: str, record: dict[str, Any]) -> str:
    """Return what was taken in and proven, as lines for a person."""
    proof, model = record["proof"], record["model"]
    return "\n".join(
        [
            f"{output}: a {model['name']} of {record['bytes'] // 4:,} parameters, {model['layers']} layers of "
            f"{model['width']}, at most {model['maximum_length']:,} tokens",
            f"read by {proof['by']}: logits of {proof['tokens']} tokens differ by {proof['difference']:.2g} at most "
            f"({proof['allowed']:.2g} allowed)",
            f"train on: headrace train start_from={output} … with data prepared by tokenizer=file "
            f"tokenizer.path={output}/tokenizer",
        ]
    )


VERB = Verb(
    name="import",
    summary="a Hugging Face folder or a GGUF file as a checkpoint that trains on, proven equal",
    run=run,
    keys=(
        ("source", "a folder with config.json and safetensors, or a .gguf file: Llama, Qwen2, Qwen3, SmolLM2"),
        ("output", "the new checkpoint's folder"),
        ("end_of_document", "the token that ends a document, if not what the source says"),
        ("proof", "transformers, or own where that isn't installed"),
    ),
    examples=(
        "headrace import source=SmolLM2-135M output=models/smollm2",
        "headrace import source=SmolLM2-135M-Instruct.Q4_1.gguf output=models/smollm2",
        "headrace import source=Qwen3-0.6B output=models/qwen3 end_of_document='<|endoftext|>'",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
