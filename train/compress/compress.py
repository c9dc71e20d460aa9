"""`headrace compress`: a model made smaller, and what that costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from train.compress.calibration import Calibration
    from train.compress.methods import Compressed
    from train.compress.parent import Parent
    from train.compress.settings import CompressConfig, MethodConfig


def run(request: Request) -> int:
    """Compress a model, print what it was measured at before and after; returns 0."""
    from train.compress.record import said
    from train.compress.settings import CompressConfig

    composed = request.compose("compress", CompressConfig)
    if composed is None:
        return 0
    record = compress(composed.value)
    print(json.dumps(record, ensure_ascii=False) if request.json else said(composed.value.output, record))
    return 0


def compress(config: CompressConfig) -> dict[str, Any]:
    """Compress as the settings say; return what `compression.json` holds.

    Raises:
        UserError: settings that can't be met, a source that is no model or compressed already.
        Failure: the source is damaged, or there is no room; nothing is left behind.
    """
    from train.checkpoint.packed_file import PACKED
    from train.compress.calibration import read_calibration
    from train.compress.measure import check_measure, scores_of, speeds_of, task_scores, tasks_of, texts_of
    from train.compress.methods import compress_model
    from train.compress.page import PAGE, render
    from train.compress.parent import open_parent
    from train.compress.record import RECORD, compression_record
    from train.compress.settings import check_fits, check_method, resolved
    from train.exchange.new_checkpoint import STATE, add_files
    from train.exchange.staging import require_absent, require_room, staged_folder
    from train.source import load_source

    method, source, output = config.method, Path(config.source), Path(config.output)
    check_method(method)
    check_measure(config.measure)
    require_absent(output)
    questions = tasks_of(config.measure)
    parent = open_parent(source, method.kind)
    loaded, method = parent.loaded, resolved(method, parent.description)
    check_fits(method, loaded.model.config, {name: tuple(values.shape) for name, values in parent.parameters.items()})
    calibration = None
    if method.needs_text:
        calibration = read_calibration(config.calibration, loaded.tokenizer, loaded.model.config.maximum_length)
    texts = texts_of(config.measure, loaded)
    parameters_before = sum(values.numel() for values in parent.parameters.values())
    require_room(output.parent, 4 * parameters_before)
    scores = {"before": scores_of(config.measure, loaded, texts)}
    tasks = {"before": task_scores(config.measure, loaded, questions)}
    compressed = compress_model(method, parent, calibration)
    with staged_folder(output) as folder:
        write(folder, parent, method, calibration, compressed)
        after = load_source(folder)
        scores["after"] = scores_of(config.measure, after, texts)
        tasks["after"] = task_scores(config.measure, after, questions)
        speeds = speeds_of(config.measure, [load_source(source), after], texts[0].tokens.tolist())
        record = compression_record(
            method=method.settings(),
            origin=parent.origin,
            calibration=calibration.record if calibration else None,
            found=compressed.found,
            parameters={"before": parameters_before, "after": compressed.count},
            sizes={
                "before": 4 * parameters_before,
                "after": (folder / (PACKED if compressed.packed else STATE)).stat().st_size,
            },
            texts=scores,
            tasks=tasks,
            speeds=dict(zip(("before", "after"), speeds)),
            notes=notes(method, parent, config),
        )
        content = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
        add_files(folder, {RECORD: content.encode(), PAGE: render(config.output, record).encode()})
    return record


def write(
    folder: Path, parent: Parent, method: MethodConfig, calibration: Calibration | None, compressed: Compressed
) -> None:
    """Write the compressed model as a checkpoint into an empty folder, with its lineage."""
    from train.checkpoint.packed_file import PACKED, write_packed_file
    from train.exchange.new_checkpoint import checkpoint_around, write_new_checkpoint

    lineage = {
        "compressed": {
            "method": method.settings(),
            "calibration": calibration.record if calibration else None,
            "of": parent.origin,
        }
    }
    tokenizer = parent.loaded.tokenizer
    if not compressed.packed:
        write_new_checkpoint(
            folder,
            compressed.config,
            tokenizer,
            lambda name: compressed.parameters[name].cpu(),
            lineage,
            described=compressed.described,
        )
        return
    checkpoint_around(
        folder,
        compressed.config,
        tokenizer,
        lineage,
        PACKED,
        lambda path: write_packed_file(path, compressed.packed, compressed.parameters),
        compressed.described,
    )


def notes(method: MethodConfig, parent: Parent, config: CompressConfig) -> list[str]:
    """Return what a reader of the table must know beside it."""
    from train.compress.record import NOTES

    if method.kind == "quantization":
        return [NOTES["quantization"], *([NOTES["pruned_parent"]] if parent.description.get("pruning") else [])]
    if method.kind in ("magnitude", "wanda"):
        return [NOTES[method.pattern or "unstructured"], NOTES["pruned_training"]]
    return [NOTES["structure"].format(output=config.output, source=config.source)]


VERB = Verb(
    name="compress",
    summary="a model quantized, pruned, or with fewer or narrower layers; with what it costs",
    run=run,
    groups=("method",),
    keys=(
        ("source", "a run's folder, a checkpoint or an exported model"),
        ("output", "the new checkpoint's folder"),
        ("method.group", "of int4: neighbours in a row that share a scale; must divide the rows"),
        ("method.rounding", "of int8 and int4: nearest, or gptq, which learns from text"),
        ("method.share", "of magnitude and wanda: of each matrix, what becomes zero; or method.pattern=2:4"),
        ("method.layers", "of depth: how many are left out"),
        ("method.hidden_width", "of width: channels that stay; method.key_value_heads: groups of heads"),
        ("calibration.text", "what methods learn from; or calibration.data, a dataset"),
        ("measure.texts", "what is scored before and after, a file for each domain, as a list"),
        ("measure.data", "a dataset whose validation split is scored; that of the source's run if left out"),
        ("measure.tasks", "scored too, as of evaluate"),
    ),
    examples=(
        "headrace compress source=runs/demo output=models/demo-int8 method=int8",
        "headrace compress source=models/smollm2 output=models/smollm2-int4 method=int4 method.rounding=gptq "
        "calibration.text=texts.txt 'measure.texts=[wikipedia.txt,manuals.txt]'",
        "headrace compress source=runs/demo output=models/demo-short method=depth method.layers=1 "
        "calibration.data=datasets/python_docs",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
