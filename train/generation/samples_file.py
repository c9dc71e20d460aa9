"""What a model answers to a file of prompts, as a file of samples to tune on: all of it, or what a verifier accepts.

So one command makes the data of

- sequence-level distillation (Kim and Rush 2016): a teacher's answers, `keep=all`;
- distillation of chains of thought (Ho et al. 2022): a teacher's answers with their steps, `keep=verified`;
- self-training (Zelikman et al. 2022, "STaR"): a model's own right answers; with `hint`, problems that it didn't solve
  are asked again with the answer told, which is left out of the sample (rationalisation).

It writes in chunks, and after each notes how far it has come: what was interrupted goes on there, to the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import file_hash, json_hash, sync_folder, write_json
from data_pipeline.foundation.progress import Task
from train.chain_of_thought.answers import extract
from train.chain_of_thought.strategy import StrategyConfig
from train.chain_of_thought.think import Thought, examples_before, think
from train.chain_of_thought.verifier import Verifier
from train.checkpoint.folder import MANIFEST
from train.generation.records import Record, read_records
from train.generation.settings import ALL, VERIFIED, GenerateConfig
from train.generation.templates import render
from train.generation.text_model import TextModel
from train.source import Loaded

CHUNK_BATCHES = 4
"""Batches of texts after which it is noted how far the file has come."""


@dataclass(frozen=True)
class Written:
    """What became of a file of prompts.

    Args:
        solved: prompts with a sample, hinted ones among them.
        hinted: prompts solved by a hint alone.
        texts: that were written.
        kept: samples in the file.
    """

    output: str
    prompts: int
    solved: int
    hinted: int
    texts: int
    kept: int


def write_samples_file(config: GenerateConfig, loaded: Loaded) -> Written:
    """Write the file of samples that the settings ask for, or go on with it.

    Raises:
        UserError: prompts that can't be read or lack an answer, or a file that was made otherwise.
        Failure: nothing was kept, or another process is writing the file.
    """
    assert config.prompts is not None and config.output is not None
    records = read_records(config.prompts, Path(), [], None)
    _check_records(records, config)
    made_by = _settings_hash(config, loaded)
    output = Path(config.output)
    if not output.parent.is_dir():
        raise UserError(f"output={output}: there is no folder {output.parent} to write it to")
    partial, noted = output.with_name(output.name + ".partial"), output.with_name(output.name + ".partial.json")
    if output.exists():
        raise UserError(f"output={output} exists already: choose another, or move it away")
    model = TextModel(loaded, config.at_once, begins_document=config.strategy is not None)
    each = max(1, CHUNK_BATCHES * config.at_once // _texts_a_prompt(config))
    with open(partial, "ab") as file:
        _lock(file, partial)
        done = _progress(noted, made_by, partial)
        file.truncate(done["bytes"])
        with Task("answering", len(records), "prompts") as task:
            task.advance(done["prompts"])
            for first in range(done["prompts"], len(records), each):
                chunk = records[first : first + each]
                samples = list(_samples(model, chunk, first, config, loaded))
                file.write(b"".join(_line(sample) for _, sample in samples))
                file.flush()
                os.fsync(file.fileno())
                solved = {number for number, _ in samples}
                told = {number for number, sample in samples if sample["made_by"].get("hinted")}
                done = {
                    "made_by": made_by,
                    "bytes": file.tell(),
                    "prompts": first + len(chunk),
                    "solved": done["solved"] + len(solved),
                    "hinted": done["hinted"] + len(told),
                    "kept": done["kept"] + len(samples),
                }
                write_json(noted, done)
                task.advance(len(chunk))
        if done["kept"]:
            os.replace(partial, output)
            sync_folder(output.parent)
        else:
            partial.unlink()
    noted.unlink()
    if not done["kept"]:
        raise Failure(f"{output} isn't written: none of the answers to {len(records):,} prompts was accepted")
    texts = len(records) * _texts_a_prompt(config)
    return Written(str(output), len(records), done["solved"], done["hinted"], texts, done["kept"])


def _samples(
    model: TextModel, records: Sequence[Record], first: int, config: GenerateConfig, loaded: Loaded
) -> Iterator[tuple[int, Record]]:
    """Yield the samples of some records, each with the number of its prompt.

    Args:
        first: number of the first record in the file.
    """
    verifier = Verifier(config.verifier, config.extract) if config.keep == VERIFIED else None
    lineage = {"checkpoint": file_hash(loaded.folder / MANIFEST), "strategy": _changed(config.strategy)}
    open_numbers = list(range(len(records)))
    for hint in ("", config.hint) if config.hint else ("",):
        asked = [(at, sample) for at in open_numbers for sample in range(config.count)]
        seeds = [[_seed(config.seed, first + at, sample, vote, hint) for vote in range(_votes(config))]
                 for at, sample in asked]  # fmt: skip
        thoughts = _think(model, [records[at] for at, _ in asked], hint, seeds, config)
        seen: set[tuple[int, str]] = set()
        solved: set[int] = set()
        for (at, _), thought, drawn in zip(asked, thoughts, seeds, strict=True):
            record = records[at]
            if not thought.text or (verifier and not verifier.is_right(thought.answer, str(record["answer"]))):
                continue
            solved.add(at)
            if (at, thought.text) in seen:
                continue
            seen.add((at, thought.text))
            made_by = {**lineage, "seed": drawn[0], "keep": config.keep, **({"hinted": True} if hint else {})}
            answer = {"answer": record["answer"]} if "answer" in record else {}
            yield first + at, {"prompt": record["prompt"], "completion": thought.text, **answer, "made_by": made_by}
        open_numbers = [at for at in open_numbers if at not in solved]


def _think(
    model: TextModel, records: Sequence[Record], hint: str, seeds: Sequence[Sequence[int]], config: GenerateConfig
) -> list[Thought]:
    """Ask each record's prompt, by the strategy if there is one; `hint` says how with the answer told."""
    questions = [render(hint, record, "hint") if hint else record["prompt"] for record in records]
    flat = [seed for each in seeds for seed in each]
    if config.strategy is None:
        texts = model.write(questions, config, flat)
        return [Thought(text, extract(text, config.extract), {}) for text in texts]
    before, template = examples_before(config.strategy), config.strategy.prompt
    prompts = [before + render(template, {"question": question}, "strategy.prompt") for question in questions]
    return think(model, prompts, questions, config.strategy, config.extract, config, flat)


def _check_records(records: Sequence[Record], config: GenerateConfig) -> None:
    needed = ("prompt", "answer") if config.keep == VERIFIED else ("prompt",)
    for number, record in enumerate(records, 1):
        for key in needed:
            if not isinstance(record.get(key), str if key == "prompt" else (str, int, float)) or record[key] == "":
                why = "" if key == "prompt" else f", which keep={VERIFIED} checks against: keep={ALL} doesn't"
                raise UserError(f"prompts={config.prompts}: record {number} has no `{key}`{why}")


def _votes(config: GenerateConfig) -> int:
    return 1 if config.strategy is None else config.strategy.samples


def _texts_a_prompt(config: GenerateConfig) -> int:
    return config.count * _votes(config)


def _seed(seed: int, number: int, sample: int, vote: int, hint: str) -> int:
    """Return the seed of a text's draws, whatever is written beside it."""
    return xxhash.xxh3_64_intdigest(f"{seed} {number} {sample} {vote} {hint}".encode()) >> 1


def _changed(strategy: StrategyConfig | None) -> Record | None:
    """Return the settings of a strategy that aren't the plain one's."""
    if strategy is None:
        return None
    plain = asdict(StrategyConfig())
    return {key: value for key, value in asdict(strategy).items() if value != plain[key]}


def _settings_hash(config: GenerateConfig, loaded: Loaded) -> str:
    """Return a hash of all that decides which bytes are written."""
    assert config.prompts is not None
    files = [config.prompts, *([config.strategy.examples] if config.strategy and config.strategy.examples else [])]
    settings = asdict(replace(config, source="", prompts=None, output=None))
    hashes = [file_hash(Path(file)) for file in files]
    return json_hash([settings, hashes, file_hash(loaded.folder / MANIFEST), str(loaded.device)])


def _progress(noted: Path, made_by: str, partial: Path) -> dict[str, Any]:
    """Return how far the file has come. Raises UserError: it was begun with other settings."""
    begun = {"made_by": made_by, "bytes": 0, "prompts": 0, "solved": 0, "hinted": 0, "kept": 0}
    if not noted.exists():
        return begun
    found = json.loads(noted.read_text(encoding="utf-8"))
    if found["made_by"] != made_by:
        raise UserError(
            f"{partial} was begun with other settings, prompts or another checkpoint: go on with those, or remove it "
            f"and {noted.name}"
        )
    return dict(found)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failure(f"{path} is being written by another process") from None


def _line(sample: Record) -> bytes:
    return json.dumps(sample, ensure_ascii=False).encode() + b"\n"
