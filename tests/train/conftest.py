"""Trainings through DeepSpeed, run once per session in three starts, for all tests that compare them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import run_command, torchrun
from compiler import HAS_COMPILER
from engine_runs import OBJECTIVES
from soak import soaking

STAGES = range(4)
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Trainings:
    """Results by world size and plan, and the folder with their checkpoints."""

    folder: Path
    by_ranks: dict[int, Results]

    def losses(self, ranks: int, name: str) -> dict[int, float]:
        return self._by_step(ranks, name, "losses")

    def norms(self, ranks: int, name: str) -> dict[int, float]:
        return self._by_step(ranks, name, "norms")

    def _by_step(self, ranks: int, name: str, figure: str) -> dict[int, float]:
        return {int(step): value for step, value in self.by_ranks[ranks][name][figure].items()}

    def checkpoint(self, kind: str, step: int) -> Path:
        return self.folder / kind / f"step-{step:08d}"


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Trainings:
    folder = tmp_path_factory.mktemp("trainings")
    shutil.copytree(small_dataset / "tokenizer", folder / "tokenizer")
    by_ranks = {
        1: run_plans(folder, 1, alone(folder)),
        2: run_plans(folder, 2, together(folder)),
    }
    by_ranks[1] |= run_plans(folder, 1, alone_again(folder))
    return Trainings(folder, by_ranks)


@pytest.fixture(scope="session")
def saves(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Trainings:
    """Saving in the background beside saving at once, and state that moves between offload, stages and precisions."""
    folder = tmp_path_factory.mktemp("saves")
    shutil.copytree(small_dataset / "tokenizer", folder / "tokenizer")
    moved = [move(folder, "1_offload", "3_offload"), move(folder, "3_offload", "0"), move(folder, "bf16", "0"),
             move(folder, "0", "bf16"), move(folder, "0", "1_offload")]  # fmt: skip
    by_ranks = {
        1: run_plans(folder, 1, [*(in_background(folder, 1, stage) for stage in (0, 3)), *begun(folder), *moved]),
        2: run_plans(folder, 2, [*(in_background(folder, 2, stage) for stage in (1, 3)),
                                 {"name": "broken off", "steps": 3, "break_off": f"{folder}/broken-off"},
                                 {**move(folder, "3_offload", "1_offload"), "name": "two from one"}]),
    }  # fmt: skip
    return Trainings(folder, by_ranks)


@pytest.fixture(scope="session")
def split_by_pairs(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Trainings:
    """Four ranks, of which two split each block and two hold the same part of it."""
    folder = tmp_path_factory.mktemp("pairs")
    shutil.copytree(small_dataset / "tokenizer", folder / "tokenizer")
    plans: list[dict[str, Any]] = []
    for stage in STAGES:
        to, common = f"{folder}/{stage}", {"stage": stage, "steps": 20, "tensor": 2}
        plans.append({"name": f"pairs {stage}", "save_at": {"10": to}, **common})
        plans.append({"name": f"pairs {stage} resumed", "load": f"{to}/step-00000010", **common})
    plans.append({"name": "pairs experts", "stage": 3, "steps": 8, "tensor": 2, "experts": True})
    plans.append({"name": "pairs corrupted", "stage": 1, "steps": 2, "tensor": 2,
                  "corrupted": "blocks.0.feed_forward.up.weight"})  # fmt: skip
    return Trainings(folder, {4: run_plans(folder, 4, plans)})


@pytest.fixture(scope="session")
def optimized(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Trainings:
    """Trainings by other optimizers than AdamW, with one that two processes began gone on with by one."""
    folder = tmp_path_factory.mktemp("optimized")
    shutil.copytree(small_dataset / "tokenizer", folder / "tokenizer")
    by_ranks = {ranks: run_plans(folder, ranks, [*by_muon(folder, ranks), *by_lion(folder, ranks)]) for ranks in (2, 1)}
    return Trainings(folder, by_ranks)


def by_muon(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Muon at every stage, resumed at the same and at another, in three layers so that a partition ends in a matrix."""
    common: dict[str, Any] = {"optimizer": {"kind": "muon"}, "model": {"layers": 3}}
    plans = []
    for stage in STAGES:
        to = f"{folder}/{ranks}-muon-{stage}"
        whole = {"name": f"muon {stage}", "stage": stage, "save_at": {"5": to, "12": to}, **common}
        resumed = {"name": f"muon {stage} resumed", "stage": stage, "load": f"{to}/step-00000005",
                   "save_at": {"12": f"{to}-resumed"}, **common}  # fmt: skip
        plans += [whole, resumed]
    for before, after in ((0, 3), (3, 1), (1, 2), (2, 0)):
        load = f"{folder}/2-muon-{before}/step-00000005"
        plans.append({"name": f"muon {before} to {after}", "stage": after, "load": load, **common})
    plans.append({"name": "muon offload", "stage": 2, "zero": {"offload_optimizer": True}, **common})
    plans.append({"name": "muon bf16", "stage": 3, "precision": "bf16", **common})
    return plans


def by_lion(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Lion with an average of the weights at every stage, resumed at the same and at another; AdamW with one, too."""
    common: dict[str, Any] = {"optimizer": {"kind": "lion", "betas": [0.9, 0.99], "weight_decay": 1.0}, "ema": 0.8}
    plans = []
    for stage in STAGES:
        to = f"{folder}/{ranks}-lion-{stage}"
        plans.append({"name": f"lion {stage}", "stage": stage, "save_at": {"5": to, "12": to}, **common})
        if stage % 2:
            load, again = f"{to}/step-00000005", {"12": f"{to}-resumed"}
            plans.append({"name": f"lion {stage} resumed", "stage": stage, "load": load, "save_at": again, **common})
    for before, after in ((0, 3), (3, 1)):
        load, to = f"{folder}/2-lion-{before}/step-00000005", f"{folder}/{ranks}-lion-{before}-{after}"
        plans.append(
            {"name": f"lion {before} to {after}", "stage": after, "load": load, "save_at": {"12": to}, **common}
        )
    plans += [{"name": f"averaged {stage}", "stage": stage, "ema": 0.8, "refused_at": [3],
               "save_at": {"12": f"{folder}/{ranks}-averaged-{stage}"}} for stage in (0, 2)]  # fmt: skip
    return plans


SHAPES: dict[str, dict[str, Any]] = {
    "0": {"stage": 0},
    "1_offload": {"stage": 1, "zero": {"offload_optimizer": True}},
    "3_offload": {"stage": 3, "zero": {"offload_optimizer": True, "offload_parameters": True}},
    "bf16": {"stage": 1, "precision": "bf16"},
}


def begun(folder: Path) -> list[dict[str, Any]]:
    return [{"name": name, "steps": 6, "save_at": {"6": f"{folder}/begun-{name}"}, **shape}
            for name, shape in SHAPES.items()]  # fmt: skip


def move(folder: Path, before: str, after: str) -> dict[str, Any]:
    """Go on in another shape from step 6, and save what was loaded there and learnt since."""
    return {"name": f"{before} to {after}", "load": f"{folder}/begun-{before}/step-00000006", **SHAPES[after]}


def in_background(folder: Path, ranks: int, stage: int) -> dict[str, Any]:
    """Saves of the same steps in both ways; the last rank's disk is full in between, and the last one is waited for."""
    at_once, background = f"{folder}/{ranks}-{stage}-at-once", f"{folder}/{ranks}-{stage}-background"
    steps = ("4", "8", "12")
    return {"name": f"stage {stage}", "stage": stage, "save_at": dict.fromkeys(steps, at_once),
            "background_at": dict.fromkeys(steps, background), "background_full_disk_at": {"10": background},
            "full_disk_ranks": [ranks - 1]}  # fmt: skip


def run_plans(folder: Path, ranks: int, plans: list[dict[str, Any]]) -> Results:
    (folder / "plans.json").write_text(json.dumps(plans))
    script = str(Path(__file__).with_name("engine_runs.py"))
    finished = run_command(torchrun(ranks, script, "plans.json", "results.json"), folder, seconds=600)
    assert finished.code == 0, finished.err
    return json.loads((folder / "results.json").read_text())


def alone(folder: Path) -> list[dict[str, Any]]:
    """Plans for one process."""
    return [
        *everything_resumed(folder, 1),
        *({"name": f"activation checkpointing {kind} {stage}", "stage": stage, "activation_checkpointing": True,
           "recomputed": kind} for stage in (0, 3) for kind in ("blocks", "cheap", "host")),
        *with_overlap(),
        *in_bf16(),
        *growing(),
        *skipping(folder, 1),
        {"name": "offload 3", "stage": 3, "zero": {"offload_optimizer": True, "offload_parameters": True}},
        {"name": "micro 8", "micro": 8},
        *in_fp8(folder),
        *compiled("blocks", *((0, 3) if soaking() else (3,))),
        *compiled("model", 2),
        *tuned(),
        *adapted(folder, 1),
        *routed(folder, 1),
        {"name": "odd", "steps": 8, "model": ODD},
        {"name": "odd recomputed 3", "stage": 3, "steps": 8, "model": ODD, "activation_checkpointing": True,
         "recomputed": "cheap"},
        {"name": "documents", "steps": 8, "objective": {"kind": "sft"}},
        full_disk(folder, 1),
    ]  # fmt: skip


def together(folder: Path) -> list[dict[str, Any]]:
    """Plans for two processes, some of which go on from what one process saved."""
    return [
        *everything_resumed(folder, 2),
        *with_overlap(),
        *in_bf16(),
        *growing(),
        *skipping(folder, 2),
        *corrupted(),
        *tuned(),
        *adapted(folder, 2),
        *([*compiled("blocks", 1), *compiled("model", 1)] if soaking() else []),
        *routed(folder, 2),
        *shared(folder),
        *split(folder),
        {"name": "growing offload 2", "stage": 2, "half_until": 5, "zero": {"offload_optimizer": True}},
        *({"name": f"offload {stage}", "stage": stage, "zero": {"offload_optimizer": True}} for stage in (1, 2)),
        *({"name": f"grown {stage}", "stage": stage, "steps": 50, "load": f"{folder}/1-{stage}/step-00000020"}
          for stage in STAGES),
        {"name": "0 to 3", "stage": 3, "steps": 30, "load": f"{folder}/1-0/step-00000020",
         "save_at": {"30": f"{folder}/chain"}},
        full_disk(folder, 2),
    ]  # fmt: skip


def alone_again(folder: Path) -> list[dict[str, Any]]:
    """Plans for one process that go on from what two saved."""
    return [
        *({"name": f"shrunk {stage}", "stage": stage, "steps": 50, "load": f"{folder}/2-{stage}/step-00000020"}
          for stage in STAGES),
        {"name": "3 to 1", "stage": 1, "steps": 40, "load": f"{folder}/chain/step-00000030",
         "save_at": {"40": f"{folder}/chain"}},
        {"name": "1 to 2", "stage": 2, "steps": 50, "micro": 4, "load": f"{folder}/chain/step-00000040"},
    ]  # fmt: skip


def everything_resumed(folder: Path, ranks: int) -> list[dict[str, Any]]:
    plans = []
    for stage in STAGES:
        whole, resumed = f"{folder}/{ranks}-{stage}", f"{folder}/{ranks}-{stage}-resumed"
        saves = {"20": whole, "50": whole}
        plans.append({"name": f"stage {stage}", "stage": stage, "steps": 50, "save_at": saves})
        load = f"{whole}/step-00000020"
        plans.append(
            {"name": f"resumed {stage}", "stage": stage, "steps": 50, "load": load, "save_at": {"50": resumed}}
        )
    return plans


def with_overlap() -> list[dict[str, Any]]:
    return [
        {"name": f"overlap {stage}", "stage": stage, "zero": {"overlap_communication": True}} for stage in STAGES[1:]
    ]


def compiled(kind: str, *stages: int) -> list[dict[str, Any]]:
    if not HAS_COMPILER:
        return []
    return [{"name": f"compiled {kind} {stage}", "stage": stage, "compiled": kind} for stage in stages]


def growing() -> list[dict[str, Any]]:
    return [{"name": f"growing {stage}", "stage": stage, "half_until": 5} for stage in STAGES]


def in_bf16() -> list[dict[str, Any]]:
    return [{"name": f"bf16 {stage}", "stage": stage, "precision": "bf16"} for stage in STAGES[1:]]


def in_fp8(folder: Path) -> list[dict[str, Any]]:
    return [
        {"name": "fp8 1", "stage": 1, "precision": "fp8", "save_at": {"6": f"{folder}/fp8"}},
        {"name": "fp8 3", "stage": 3, "precision": "fp8", "activation_checkpointing": True},
        {"name": "fp8 to fp32", "stage": 0, "load": f"{folder}/fp8/step-00000006"},
    ]


def skipping(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Updates refused, one of them for a loss that is no number, and the state of step 4 brought back after step 9."""
    kinds: dict[str, dict[str, Any]] = {
        **{f"skipping {stage}": {"stage": stage} for stage in STAGES},
        **{f"skipping bf16 {stage}": {"stage": stage, "precision": "bf16"} for stage in (1, 3)},
        **({"skipping offload 2": {"stage": 2, "zero": {"offload_optimizer": True}}} if ranks == 2 else {}),
        **({"skipping offload 3": {"stage": 3, "zero": {"offload_optimizer": True}}} if ranks == 1 else {}),
    }
    plans = []
    for name, settings in kinds.items():
        to = f"{folder}/{ranks}-{name.replace(' ', '-')}"
        trouble = {"refused_at": [3, 8], "nan_at": [6, 9], "return_at": {"9": f"{to}/step-00000004"}}
        plans.append({"name": name, "save_at": {"4": to}, **settings, **trouble})
    return plans


def tuned() -> list[dict[str, Any]]:
    return [{"name": f"{name} {stage}", "stage": stage, "steps": 8, "objective": objective}
            for name, objective in OBJECTIVES.items() for stage in STAGES]  # fmt: skip


def adapted(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Adapters beside the weights of step 20, at every stage; saved half way, and gone on with at another stage."""
    common = {"lora": {"rank": 4}, "start": f"{folder}/1-0/step-00000020", "steps": 6}
    plans = []
    for stage in STAGES:
        to = f"{folder}/{ranks}-lora-{stage}"
        plans.append({"name": f"lora {stage}", "stage": stage, **common, "save_at": {"3": to, "6": to}})
    for before, after in ((0, 3), (3, 1)):
        load = f"{folder}/{ranks}-lora-{before}/step-00000003"
        plans.append({"name": f"lora {before} to {after}", "stage": after, **common, "load": load, "start": None})
    return plans


def routed(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """A model with experts at every stage; saved on the way by the first, and gone on with by it and by the last."""
    to, common = f"{folder}/{ranks}-experts", {"experts": True, "steps": 8}
    load = f"{to}/step-00000004"
    return [
        {"name": "experts 0", "stage": 0, "save_at": {"4": to, "8": to}, **common},
        *({"name": f"experts {stage}", "stage": stage, **common} for stage in (STAGES[1:] if ranks == 2 else (3,))),
        {"name": "experts 0 to 0", "stage": 0, "load": load, "save_at": {"8": f"{to}-resumed"}, **common},
        {"name": "experts 0 to 3", "stage": 3, "load": load, **common},
        {"name": "experts recomputed", "stage": 3, "micro": 4, "activation_checkpointing": True, **common},
    ]


def shared(folder: Path) -> list[dict[str, Any]]:
    """Two ranks with a half of each sequence, at every stage; what the first saves goes on with whole sequences."""
    to, common = f"{folder}/shared", {"sequence": 2}
    plans: list[dict[str, Any]] = [
        {"name": f"shared {stage}", "stage": stage, "steps": 20, **common} for stage in STAGES
    ]
    plans[1] |= {"save_at": {"10": to}}
    load = f"{to}/step-00000010"
    return [
        *plans,
        {"name": "shared resumed", "stage": 1, "steps": 20, "load": load, **common},
        {"name": "shared to whole", "stage": 3, "steps": 20, "load": load},
        {"name": "shared recomputed", "stage": 2, "steps": 12, "micro": 8, "activation_checkpointing": True, **common},
        {"name": "shared documents", "stage": 2, "steps": 8, "objective": {"kind": "sft"}, **common},
        {"name": "shared forward", "stage": 1, "steps": 8, "objective": OBJECTIVES["forward"], **common},
        {"name": "shared experts", "stage": 3, "steps": 8, "experts": True, **common},
        {"name": "shared bf16", "stage": 1, "precision": "bf16", **common},
    ]


ODD: dict[str, Any] = {"query_key_norm": True, "attention_bias": True, "attention_output_bias": True,
                       "feed_forward_bias": True, "tied_embeddings": False}  # fmt: skip


def split(folder: Path) -> list[dict[str, Any]]:
    """Two ranks with a half of each block, at every stage; what they save goes on whole, and what one saved split."""
    to, common = f"{folder}/split", {"tensor": 2}
    plans: list[dict[str, Any]] = [
        {"name": f"split {stage}", "stage": stage, "steps": 20, **common} for stage in STAGES
    ]
    plans[1] |= {"save_at": {"10": to, "20": to}}
    load, half = f"{to}/step-00000010", {"steps": 8, **common}
    return [
        *plans,
        {"name": "split resumed", "stage": 1, "steps": 20, "load": load, "save_at": {"20": f"{to}-resumed"}, **common},
        {"name": "split to whole", "stage": 3, "steps": 20, "load": load},
        {"name": "whole to split", "stage": 2, "steps": 25, "load": f"{folder}/1-0/step-00000020", **common},
        {"name": "split experts 0", "stage": 0, "experts": True, **half, "save_at": {"4": f"{to}-experts"}},
        {"name": "split experts 3", "stage": 3, "experts": True, "load": f"{to}-experts/step-00000004", **half},
        {
            "name": "split odd",
            "stage": 2,
            "model": ODD,
            "activation_checkpointing": True,
            "recomputed": "cheap",
            **half,
        },
        {"name": "split offload", "stage": 2, "zero": {"offload_optimizer": True}, **half},
        {"name": "split bf16", "stage": 1, "precision": "bf16", **half},
        {"name": "split documents", "stage": 0, "objective": {"kind": "sft"}, **half},
        {"name": "split dpo", "stage": 1, "objective": OBJECTIVES["dpo"], **half},
        {"name": "split corrupted", "stage": 0, "corrupted": "norm.weight/master", **common, "steps": 2},
    ]


def corrupted() -> list[dict[str, Any]]:
    weight, moment = "blocks.0.feed_forward.up.weight", "blocks.1.attention.output.weight/exp_avg_sq"
    return [
        {"name": "corrupted 0", "stage": 0, "steps": 2, "corrupted": moment},
        {"name": "corrupted 1", "stage": 1, "steps": 2, "corrupted": weight},
        {"name": "corrupted bf16 2", "stage": 2, "steps": 2, "precision": "bf16", "corrupted": weight},
        {"name": "corrupted 3", "stage": 3, "steps": 2, "corrupted": "norm.weight"},
    ]


def full_disk(folder: Path, ranks: int) -> dict[str, Any]:
    """A disk that is full for the last rank alone, between two good checkpoints."""
    to = f"{folder}/{ranks}-full-disk"
    return {"name": "full disk", "stage": ranks - 1, "save_at": {"4": to, "8": to}, "full_disk_at": {"6": to},
            "full_disk_ranks": [ranks - 1]}  # fmt: skip
