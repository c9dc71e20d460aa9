"""`python -m benchmarks.optimizers DATASET [FOLDER] [STEPS] [SETTINGS …]`: Muon against AdamW at equal tokens and time.

A model of ten million parameters, unless SETTINGS say otherwise, is trained for STEPS (600 if left out) by each, at
each of some rates; at the best rate of each also with further seeds. Rates stay after their warm-up, so each curve of
validation losses can be read at any step and second. Told is what holds for every seed. Runs lie in FOLDER (`runs` if
left out), go on there, and `headrace report` lays them side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.commands import headrace
from train.telemetry.recorder import read_lines

KINDS = ("adamw", "muon")
RATES = (0.0003, 0.0008, 0.002, 0.005, 0.0125)
SEEDS = (0, 1, 2)
POINTS = 20
ALIKE = (
    *("model.width=256", "model.layers=11", "model.heads=4", "model.key_value_heads=4", "model.hidden_width=704"),
    *("data.sequence_length=256", "batch.sequences=16", "schedule=constant", "schedule.warmup_steps=30"),
    *("validation.sequences=64", "samples.every=0", "checkpoint.every=100", "checkpoint.keep=1", "tracker=none"),
)


@dataclass(frozen=True)
class Curve:
    """Validation losses of a run.

    Args:
        steps: (points,) after which they were measured.
        seconds: (points,) of training until then.
    """

    steps: np.ndarray
    seconds: np.ndarray
    losses: np.ndarray

    def after(self, seconds: float) -> float:
        """Return the loss after some time, between points on a straight line."""
        return float(np.interp(seconds, self.seconds, self.losses))

    def steps_to(self, loss: float) -> float:
        """Return the steps after which the loss was first as low, or infinity."""
        below = np.flatnonzero(self.losses <= loss)
        if not len(below) or below[0] == 0:
            return float(self.steps[0]) if len(below) else float("inf")
        last = below[0]
        (x0, x1), (y0, y1) = self.steps[last - 1 : last + 1], self.losses[last - 1 : last + 1]
        return float(x0 + (x1 - x0) * (y0 - loss) / (y0 - y1))


def curve_of(run: Path) -> Curve:
    """Read the validation losses out of a run's metrics; steps that a kill had repeated count once."""
    rows = {row["step"]: row for row in read_lines(run / "metrics.jsonl")}
    steps = sorted(rows)
    seconds = np.cumsum([rows[step]["step_seconds"] for step in steps])
    measured = [number for number, step in enumerate(steps) if rows[step].get("validation_loss") is not None]
    losses = np.array([rows[steps[number]]["validation_loss"] for number in measured])
    return Curve(np.array(steps)[measured], seconds[measured], losses)


def trained(dataset: Path, runs: Path, steps: int, settings: Sequence[str], kind: str, rate: float, seed: int) -> Curve:
    name = f"{kind}-{rate:g}-{seed}"
    own = (f"optimizer={kind}", f"optimizer.learning_rate={rate}", f"seed={seed}", f"steps={steps}")
    where = (f"data.path={dataset}", f"run.root={runs}", f"run.name={name}")
    every = f"validation.every={max(1, steps // POINTS)}"
    headrace("train", *where, *own, every, *ALIKE, *settings)
    return curve_of(runs / name)


def optimizer_lines(dataset: Path, runs: Path, steps: int = 600, settings: Sequence[str] = ()) -> Iterator[str]:
    """Yield a line for each rate and seed, and what all seeds say."""
    curves: dict[str, list[Curve]] = {}
    for kind in KINDS:
        by_rate = {rate: trained(dataset, runs, steps, settings, kind, rate, SEEDS[0]) for rate in RATES}
        best = min(by_rate, key=lambda rate: by_rate[rate].losses[-1])
        yield f"{kind}: " + ", ".join(f"rate {rate:g} {curve.losses[-1]:.4f}" for rate, curve in by_rate.items())
        if best in (RATES[0], RATES[-1]):
            yield f"{kind}: its best rate of these, {best:g}, is an end of them: there may be a better one beyond"
        others = [trained(dataset, runs, steps, settings, kind, best, seed) for seed in SEEDS[1:]]
        curves[kind] = [by_rate[best], *others]
        losses = ", ".join(f"{curve.losses[-1]:.4f}" for curve in curves[kind])
        pace = np.mean([curve.seconds[-1] / curve.steps[-1] for curve in curves[kind]])
        yield f"{kind} at {best:g}: {losses} after {steps} steps with seeds {SEEDS}, {pace:.3f} s a step"
    adamw, muon = curves["adamw"], curves["muon"]
    time = min(curve.seconds[-1] for curve in (*adamw, *muon))
    yield told("tokens", [a.losses[-1] - m.losses[-1] for a, m in zip(adamw, muon)])
    yield told(f"time ({time:.0f} s)", [a.after(time) - m.after(time) for a, m in zip(adamw, muon)])
    shares = [m.steps_to(a.losses[-1]) / a.steps[-1] for a, m in zip(adamw, muon)]
    yield "muon reaches AdamW's last loss after " + ", ".join(f"{share:.2f}" for share in shares) + " of its steps"


def told(what: str, gains: Sequence[float]) -> str:
    """Return what seeds say of Muon at equal tokens or time: who is ahead only where all of them agree."""
    each = ", ".join(f"{gain:+.4f}" for gain in gains)
    ahead = "muon" if min(gains) > 0 else "adamw" if max(gains) < 0 else None
    verdict = f"{ahead} is lower with every seed" if ahead else "the seeds don't agree"
    return f"at equal {what} {verdict}: AdamW's validation loss less Muon's {each}"


def main() -> int:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    for line in optimizer_lines(Path(sys.argv[1]), folder, int((sys.argv[3:4] or ["600"])[0]), sys.argv[4:]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
