"""`make gpu-check`, or `python -m benchmarks.gpu_check DATASET`: what the GPUs of this machine do, once they are yours.

First the tests that need a GPU; then one layout after another on all GPUs of the machine, by `headrace profile`, beside
what `headrace plan` has predicted of them from the GPU's data sheet: tokens a second, MFU and peak memory. Ends with a
report, `gpu-check.md` and `gpu-check.json`, to be kept, or sent to us with an issue. A layout that the planner says
can't fit isn't tried. `--cpu` runs small layouts on one process without a GPU, as the report itself is tested.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline.foundation.configuration import compose_configuration
from launch.plan.plan import make_plan
from launch.plan.settings import PlanConfig, check_plan, register_plan
from train.telemetry.environment import describe_environment

SHEETS = ("a100", "h100", "h200", "b200", "mi300x")
VOCABULARY = 32768
STEPS = ("profile.warm_up=5", "profile.steps=10", "profile.traced=1")


@dataclass(frozen=True)
class Case:
    """A layout: sequences are of a step on each device; `compiled` is what `train` calls so, or nothing."""

    model: str
    length: int
    sequences: int
    micro: int
    stage: int
    precision: str = "bf16"
    recomputes: bool = False
    compiled: str = ""

    @property
    def name(self) -> str:
        compiled = self.compiled and f"compiled {self.compiled}"
        more = (f"ZeRO {self.stage}", self.precision, "recomputed" * self.recomputes, compiled)
        return " ".join((self.model, f"T {self.length}", f"micro {self.micro}", *filter(None, more)))

    def settings(self, devices: int) -> list[str]:
        """Return what `profile` and `plan` are both told."""
        return [
            *(f"model={self.model}", f"model.vocabulary_size={VOCABULARY}", f"precision={self.precision}"),
            *(
                f"model.maximum_length={self.length}",
                f"data.sequence_length={self.length}",
                f"batch.micro={self.micro}",
            ),
            *(
                f"batch.sequences={self.sequences * devices}",
                f"activation_checkpointing={str(self.recomputes).lower()}",
            ),
        ]


GPU_CASES = [
    *(Case("gpt2_124m", 1024, 32, 32, stage) for stage in (1, 3)),
    Case("gpt2_124m", 1024, 32, 32, 1, compiled="blocks"),
    *(Case("gpt2_124m", 1024, 32, 32, stage, compiled="deepcompile") for stage in (1, 3)),
    *(Case("llama_1b", 4096, 4, 2, stage) for stage in (1, 2, 3)),
    Case("llama_1b", 4096, 4, 4, 1, recomputes=True),
    Case("llama_1b", 4096, 4, 2, 1, compiled="blocks"),
    Case("llama_1b", 4096, 4, 2, 1, precision="fp8", compiled="blocks"),
    Case("llama_8b", 8192, 2, 1, 3, recomputes=True),
    Case("llama_8b", 8192, 2, 1, 3, recomputes=True, compiled="blocks"),
]
CPU_CASES = [Case("nano", 128, 4, 4, 0, "fp32"), Case("nano", 128, 4, 2, 0, "fp32", recomputes=True)]


@dataclass(frozen=True)
class Row:
    """A layout as measured and as predicted: tokens a second of all devices, MFU as a share, bytes on one device."""

    name: str
    rate: float
    predicted_rate: float
    mfu: float | None
    predicted_mfu: float
    memory: int
    predicted_memory: float


def sheet_of_this_gpu() -> str:
    """Return the data sheet that the GPU's name says. Raises SystemExit: there is none."""
    name = torch.cuda.get_device_name()
    sheet = next((each for each in SHEETS if each in name.lower()), None)
    if sheet is None:
        raise SystemExit(
            f"{name} has no data sheet in conf/device: name the one that is nearest, such as --device h100"
        )
    return sheet


def predict(case: Case, devices: int, device: str) -> dict[str, Any]:
    """Return what `headrace plan` says of a layout, as its `--json` does."""
    told = [*case.settings(devices), f"stages=[{case.stage}]", f"device={device}", f"devices_per_node={devices}"]
    # The data sheets' efficiencies are of 16 bits: of 8 the planner knows nothing.
    told = [each.replace("precision=fp8", "precision=bf16") for each in told]
    register_plan()
    config = compose_configuration("plan", told, PlanConfig).value
    check_plan(config)
    return make_plan(config).json()["options"][0]


def measure(case: Case, devices: int, dataset: Path) -> dict[str, Any] | str:
    """Return what `headrace profile` finds of a layout, or the reason why it finds nothing."""
    with tempfile.TemporaryDirectory() as folder:
        told = [*case.settings(devices), f"data.path={dataset}", f"zero={case.stage}", f"profile.output={folder}"]
        told += [*STEPS, "--json"]
        if case.compiled:
            told += ["compile=true", f"compiled={case.compiled}"]
        ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(devices), "-m"] * (devices > 1)
        command = [sys.executable, "-m", *ranks, "train.profile.command", *told]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if line.startswith("headrace")]
        return (lines or finished.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return json.loads(finished.stdout)


def rows(cases: list[Case], devices: int, device: str, dataset: Path) -> Iterator[Row | str]:
    """Yield a row of each layout, or why there is none."""
    for case in cases:
        predicted = predict(case, devices, device)
        if not predicted["fits"]:
            yield f"{case.name}: not tried, it needs {predicted['memory']['needed'] / 1e9:.0f} GB a device"
            continue
        found = measure(case, devices, dataset)
        if isinstance(found, str):
            yield f"{case.name}: {found}"
            continue
        yield Row(
            case.name,
            found["tokens"] / found["step_seconds"],
            predicted["tokens_per_second_per_device"] * devices,
            found["mfu"],
            predicted["mfu"],
            found["peak_bytes"],
            predicted["memory"]["peak"],
        )


def table(found: list[Row | str]) -> list[str]:
    """Return the report's table in Markdown, and below it what there is no row of."""
    lines = ["| layout | tokens/s | planned | MFU | planned | GB | planned |", "|---|--:|--:|--:|--:|--:|--:|"]
    for row in found:
        if isinstance(row, Row):
            mfu = "–" if row.mfu is None else f"{row.mfu:.1%}"
            cells = (row.name, f"{row.rate:,.0f}", f"{row.predicted_rate:,.0f}", mfu, f"{row.predicted_mfu:.1%}")
            memory = (f"{row.memory / 1e9:.2f}", f"{row.predicted_memory / 1e9:.2f}")
            lines.append(f"| {' | '.join((*cells, *memory))} |")
    return [*lines, "", *(f"- {row}" for row in found if isinstance(row, str))]


def gpu_tests() -> list[str]:
    """Run the tests that need a GPU; return what of their output a report needs: failures and the last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rfE"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    print(finished.stdout, flush=True)
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    return [line for line in lines if line.startswith(("FAILED", "ERROR"))] + lines[-1:]


def check(cases: list[Case], devices: int, device: str, dataset: Path, folder: Path, tests: list[str]) -> None:
    """Measure layouts, and write the report of them and of tests into a folder."""
    environment = describe_environment()
    found: list[Row | str] = []
    for row in rows(cases, devices, device, dataset):
        found.append(row)
        print("\n".join(table([row])[2:]).strip(), flush=True)
    kept = [asdict(row) if isinstance(row, Row) else row for row in found]
    told = {"environment": environment, "devices": devices, "sheet": device, "tests": tests, "layouts": kept}
    (folder / "gpu-check.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    title = [f"# {devices} × {device}", "", *(f"    {line}" for line in tests), ""]
    (folder / "gpu-check.md").write_text("\n".join([*title, *table(found)]) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--device", help="the data sheet to predict from, where the GPU's name doesn't say")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of the report")
    parser.add_argument("--no-tests", dest="tests", action="store_false")
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    if not asked.dataset.is_dir():
        print(
            f"{asked.dataset}: no dataset there; make one with `headrace prepare output={asked.dataset}`",
            file=sys.stderr,
        )
        return 2
    if not asked.cpu and not torch.cuda.is_available():
        print(
            "no GPU here that PyTorch can use: `headrace doctor` says why, and --cpu tries the report", file=sys.stderr
        )
        return 2
    device = asked.device or ("cpu" if asked.cpu else sheet_of_this_gpu())
    cases, devices = (CPU_CASES, 1) if asked.cpu else (GPU_CASES, torch.cuda.device_count())
    check(cases, devices, device, asked.dataset, asked.output, gpu_tests() if asked.tests else [])
    print(f"report: {asked.output / 'gpu-check.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
