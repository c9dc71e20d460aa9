"""What writing the steps out is worth: the same problems, model, optimizer and time, with the steps and without.

A Transformer of fixed depth does a fixed amount of work per token; a chain of ten operations, each of which needs the
result of the one before, can't be done in it at once but can one written step at a time (Feng et al. 2023, "Towards
revealing the mystery behind chain of thought"; Merrill and Sabharwal 2024). Trained are, on each kind of problem and
with each seed, but for what takes longest,

- `steps`: the answer behind its steps;
- `direct`: the answer alone, for as many steps of as many sequences, which is the same time;
- `direct, as much supervised`: the answer alone, until as many tokens are learnt as in `steps`; for chains, with the
  first `study.controls` seeds, as products are `direct`;
- `reward`: products, from where `steps` has learnt half of them on, by whether its own answers are right.

Every training is a run of its own, in the folder of the study's, with all that runs promise: a study that was killed
goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline.cleaning.chain import CleaningConfig
from data_pipeline.deduplication.exact import ExactDuplicatesConfig
from data_pipeline.deduplication.minhash import NearDuplicatesConfig
from data_pipeline.deduplication.signatures import DuplicatesConfig
from data_pipeline.foundation.configuration import Composed
from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.foundation.files import write_json
from data_pipeline.foundation.progress import Task, say
from data_pipeline.labels import ANSWERS, PROBLEMS
from data_pipeline.prepare import PrepareConfig, prepare
from data_pipeline.readers.samples import SamplesConfig
from data_pipeline.tokenization.bpe import BpeConfig
from train.checkpoint.folder import checkpoint_name, list_checkpoints, step_of
from train.settings import TrainConfig
from train.source import locate_checkpoint
from train.study.accuracy import accuracy_of, solve
from train.study.page import write_page
from train.study.problems import KINDS, Problem, draw_problems
from train.study.reward import REWARD, half_learnt, reward_result, reward_settings
from train.study.settings import StudyConfig, check_study
from train.telemetry.recorder import read_lines

BYTES_AND_END = 257
"""A vocabulary without merges: every digit is a token."""
STEPS, DIRECT, DIRECT_AS_SUPERVISED = "steps", "direct", "direct, as much supervised"
TEST_SEED, PROBLEMS_SEED = 1_000_003, 1_000_033
PROBLEMS_TO_SOLVE = 4000
"""Of a training by reward."""
CHECKPOINTS = 6
RESULT, PROBLEMS_FOLDER = "study.json", "product-problems"
WITHOUT_CLEANING = CleaningConfig(
    duplicates=DuplicatesConfig(exact=ExactDuplicatesConfig(False), near=NearDuplicatesConfig(False))
)
OF_THE_STUDY = ("run.", "study.", "experiment=")
OTHERWISE_BY_REWARD = ("model", "data", "batch", "objective", "optimizer", "schedule")
"""Settings that a training by reward has of its own, or of the checkpoint that it begins with."""
OF_EACH_RUN = {
    "data.path": "it makes its data",
    "seed": "study.seeds",
    "steps": "study.chain_steps and study.product_steps",
}
"""Settings that a study has for its runs, and where they come from."""


@dataclass(frozen=True)
class Way:
    """One training of the study.

    Args:
        problem: kind of problem.
        name: what is trained.
        seed: of weights and order.
        steps: optimizer steps.
    """

    problem: str
    name: str
    seed: int
    steps: int

    @property
    def folder(self) -> str:
        return f"{self.problem}-{self.name.replace(', ', '-').replace(' ', '-')}-{self.seed}"

    @property
    def is_product_with_steps(self) -> bool:
        return (self.problem, self.name) == ("product", STEPS)

    @property
    def dataset(self) -> str:
        return f"{self.problem}-{STEPS if self.name == STEPS else DIRECT}"


def run_study(composed: Composed[TrainConfig], dry_run: bool) -> int:
    """Train all ways, test them, write `study.json` and the page. Returns the exit code.

    Raises:
        UserError: settings that can't be meant.
        Failure: a training failed; its own messages have been shown.
    """
    config, study = composed.value, composed.value.study
    check_study(study)
    root = Path(config.run.root) / (config.run.name or "cot_theory")
    for key in (text.lstrip("+").partition("=")[0] for text in composed.overrides):
        if key in OF_EACH_RUN:
            raise UserError(f"{key} means nothing to a study: {OF_EACH_RUN[key]}; study.kind=null trains one run")
    if dry_run:
        say(f"would train and test in {root}")
        return 0
    length = config.data.sequence_length
    learnt = {
        kind: _prepare(root / "data", kind, study, _length(study, kind, length))
        for kind in KINDS
        if _steps_of(study, kind)
    }
    if study.reward_steps and study.product_steps:
        _prepare_problems(root / "data")
    ways = list(ways_of(study, learnt))
    at_once = study.at_once or len(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    say(f"{len(ways)} trainings, {at_once} at once, in {root}")
    results = []
    with Task("training", len(ways), "runs") as progress, ThreadPoolExecutor(at_once) as pool:
        for result in pool.map(lambda way: _trained_and_tested(root, way, study, composed.overrides), ways):
            results += result
            progress.advance()
    write_json(root / RESULT, {"settings": asdict(study), "results": results})
    say(f"{write_page(root, results)}")
    return 0


def ways_of(study: StudyConfig, learnt: dict[str, dict[str, int]]) -> Iterator[Way]:
    """Yield the trainings, the longest first.

    Args:
        learnt: by kind of problem, tokens of a sequence that are learnt from with the steps and without.
    """
    ways = []
    for kind, of_sequence in learnt.items():
        steps = _steps_of(study, kind)
        for number, seed in enumerate(study.seeds):
            ways.append(Way(kind, STEPS, seed, steps))
            if kind == "chain" or number < study.controls:
                ways.append(Way(kind, DIRECT, seed, steps))
            if kind == "chain" and number < study.controls:
                as_many = round(steps * of_sequence[STEPS] / of_sequence[DIRECT])
                ways.append(Way(kind, DIRECT_AS_SUPERVISED, seed, as_many))
    yield from sorted(ways, key=lambda way: -way.steps)


def _steps_of(study: StudyConfig, kind: str) -> int:
    return int(getattr(study, f"{kind}_steps"))


def _length(study: StudyConfig, kind: str, otherwise: int) -> int:
    """Return the tokens of a sequence of a kind of problem."""
    settings = dict(text.partition("=")[::2] for text in getattr(study, kind))
    return int(settings.get("data.sequence_length", otherwise))


def _prepare(folder: Path, kind: str, study: StudyConfig, length: int) -> dict[str, int]:
    """Make the datasets of a kind of problem; return how many tokens of a sequence are learnt from, by way.

    Args:
        length: tokens of a sequence.
    """
    learnt = {}
    folder.mkdir(parents=True, exist_ok=True)
    problems = list(draw_problems(kind, study.samples, 0, held_out=False))
    for way in (STEPS, DIRECT):
        samples = [problem.sample(way == STEPS) for problem in problems]
        # All problems of a kind are of one length; so many of them fit into a sequence.
        completion = len(samples[0]["completion"]) + 1
        learnt[way] = length // (len(samples[0]["prompt"]) + completion) * completion
        _make_dataset(folder / f"{kind}-{way}", samples)
    return learnt


def _make_dataset(folder: Path, samples: Iterable[dict[str, str]], kind: str = ANSWERS) -> None:
    path = folder.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    # Problems are alike, and are meant to be: the default would leave out most of them as near duplicates.
    config = PrepareConfig(str(folder), SamplesConfig([str(path)], kind=kind), WITHOUT_CLEANING)
    prepare(replace(config, tokenizer=BpeConfig(BYTES_AND_END)))


def _by_reward(
    root: Path, way: Way, result: dict[str, Any], study: StudyConfig, typed: Sequence[str]
) -> dict[str, Any]:
    """Go on by reward from where a training has learnt half; return what that gives.

    Args:
        result: of the training with its steps.
    """
    half = half_learnt(result["curve"])
    assert half is not None
    checkpoint = root / way.folder / "checkpoints" / checkpoint_name(half["step"])
    further = replace(way, name=REWARD, steps=study.reward_steps)
    kept = [text for text in typed if not text.lstrip("+").startswith(OTHERWISE_BY_REWARD)]
    _train(root, further, kept, reward_settings(checkpoint, root / "data" / PROBLEMS_FOLDER))
    rows = read_lines(root / further.folder / "metrics.jsonl")
    solved = accuracy_of(solve(root / further.folder, _problems_to_test(way, study)))
    return reward_result(result, solved, further.steps, sum(row["step_seconds"] for row in rows), rows[-1]["tokens"])


def _prepare_problems(folder: Path) -> None:
    """Make the dataset of products that only the answer is known of, others than those with steps."""
    problems = draw_problems("product", PROBLEMS_TO_SOLVE, PROBLEMS_SEED, held_out=False)
    samples = ({"prompt": problem.question, "answer": problem.answer} for problem in problems)
    _make_dataset(folder / PROBLEMS_FOLDER, samples, kind=PROBLEMS)


def _trained_and_tested(root: Path, way: Way, study: StudyConfig, typed: Sequence[str]) -> list[dict[str, Any]]:
    """Train one way; return what it can do, and of products with steps what it can do after rewards."""
    settings = getattr(study, way.problem)
    _train(root, way, typed, ("experiment=cot_theory", f"data.path='{root / 'data' / way.dataset}'", *settings))
    result = _test(root, way, study)
    goes_on = study.reward_steps and way.is_product_with_steps and half_learnt(result["curve"])
    return [result, _by_reward(root, way, result, study, typed)] if goes_on else [result]


def _train(root: Path, way: Way, typed: Sequence[str], begin: Sequence[str]) -> None:
    """Train one way in a process of its own. Raises Failure: it ended otherwise than well.

    Args:
        begin: settings that those typed change.
    """
    overrides = [
        *begin,
        *(text for text in typed if not text.lstrip("+").startswith(OF_THE_STUDY)),
        "study.kind=null",
        f"run.root='{root}'",
        f"run.name={way.folder}",
        f"seed={way.seed}",
        f"steps={way.steps}",
        f"checkpoint.every={max(1, way.steps // CHECKPOINTS)}",
        "checkpoint.keep=0",
        "cluster.threads=1",
    ]
    if (root / way.folder / "summary.json").is_file():
        summary = json.loads((root / way.folder / "summary.json").read_text(encoding="utf-8"))
        if summary.get("status") == "finished" and summary.get("steps") == way.steps:
            return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "train", *overrides], env=environment, capture_output=True, text=True, check=False
    )
    if process.returncode == 2:
        raise UserError(process.stderr.strip().splitlines()[-1].removeprefix("headrace train: "))
    if process.returncode:
        raise Failure(f"the training in {root / way.folder} ended with {process.returncode}:\n{process.stderr[-2000:]}")


def _problems_to_test(way: Way, study: StudyConfig) -> list[Problem]:
    return list(draw_problems(way.problem, study.problems, TEST_SEED, held_out=True))


def _test(root: Path, way: Way, study: StudyConfig) -> dict[str, Any]:
    """Return what a trained way can do: at the end, on the way there, and by vote where it has learnt half."""
    run = root / way.folder
    problems = _problems_to_test(way, study)
    rows = read_lines(run / "metrics.jsonl")
    seconds, curve = 0.0, []
    stops = {row["step"]: (seconds := seconds + row["step_seconds"]) for row in rows if "step_seconds" in row}
    checkpoints = list_checkpoints(run / "checkpoints") if way.name == STEPS else [locate_checkpoint(run)]
    for checkpoint in checkpoints:
        step = step_of(checkpoint)
        found = accuracy_of(solve(checkpoint, problems))
        curve.append({"step": step, "seconds": stops.get(step), **asdict(found)})
    result = {**asdict(way), **curve[-1], "tokens_learnt": rows[-1]["tokens"], "curve": curve}
    half = half_learnt(curve)
    is_voted_on = way.is_product_with_steps and way.seed in study.seeds[: study.controls]
    if half is not None and is_voted_on and study.votes:
        checkpoint = run / "checkpoints" / checkpoint_name(half["step"])
        voted = accuracy_of(solve(checkpoint, problems, study.votes))
        result["vote"] = {"step": half["step"], "alone": half, "votes": study.votes, **asdict(voted)}
    return result
