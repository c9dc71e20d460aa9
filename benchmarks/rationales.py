"""`python -m benchmarks.rationales STUDY [FOLDER] [STEPS]`: what a student gains from its teacher's written steps.

STUDY is the folder of `headrace train experiment=cot_theory`. Each of its models that does chains of ten operations
step by step answers 6,000 others; what has the right answer is what two students of half the width are trained on,
alike but for the steps: the one learns them with the answer (Ho et al. 2022), the other the answer alone, for STEPS
steps (500 if left out) of as many tokens. Told is how many of 500 held-out chains each solves, and the gain, each
with the interval of 95 % (bootstrap over problems). All lies in FOLDER (`runs/rationales` if left out), and goes on
there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.commands import headrace
from train.study.accuracy import RESAMPLES, accuracy_of, solve
from train.study.chain_of_thought import TEST_SEED
from train.study.problems import ENDS_STEPS, draw_problems

ASKED, ASKED_SEED, TESTED = 6_000, 2_000_003, 500
STUDENT = (
    "experiment=cot_theory",
    "study.kind=null",
    "model.width=48",
    "model.hidden_width=128",
    "data.sequence_length=256",
    "optimizer.learning_rate=0.004",
    "guard.gradient_spike=0",  # of what is learnt by heart any gradient is a spike
)
RIGHT = ("keep=verified", "extract.how=after", f"extract.phrase='{ENDS_STEPS}'", "temperature=0", "tokens=64")
AS_THEY_ARE = ("cleaning.duplicates.exact.enabled=false", "cleaning.duplicates.near.enabled=false", "workers=1")


def rationales_lines(teacher: Path, folder: Path, steps: int = 500) -> Iterator[str]:
    """Yield a line of what was kept, one for each student, and one for the gain.

    Args:
        teacher: a run on chains with their steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, own = folder / "asked.jsonl", folder / "steps.jsonl"
    problems = draw_problems("chain", ASKED, ASKED_SEED, held_out=False)
    asked.write_text("".join(f"{json.dumps({'prompt': each.question, 'answer': each.answer})}\n" for each in problems))
    if not own.exists():
        headrace("generate", f"source={teacher}", f"prompts={asked}", f"output={own}", *RIGHT, "at_once=256")
    samples = [json.loads(line) for line in own.read_text().splitlines()]
    alone = [{"prompt": each["prompt"], "completion": each["answer"]} for each in samples]
    (folder / "answers.jsonl").write_text("".join(json.dumps(each) + "\n" for each in alone))
    yield f"{teacher.name}: {len(samples):,} of {ASKED:,} answers kept"
    tested = list(draw_problems("chain", TESTED, TEST_SEED, held_out=True))
    solved = {}
    for name in ("steps", "answers"):
        dataset, tokenizer = folder / f"data-{name}", next(teacher.glob("checkpoints/*/tokenizer/tokenizer.json"))
        reads = ("corpus=samples", f"corpus.paths=['{folder / name}.jsonl']", "tokenizer=file")
        headrace("prepare", *reads, f"tokenizer.path={tokenizer}", f"output={dataset}", *AS_THEY_ARE)
        where = (f"data.path={dataset}", f"run.root={folder}", f"run.name={name}", f"steps={steps}")
        headrace("train", *STUDENT, *where, "cluster.threads=1")
        solved[name] = solve(folder / name, tested)
        found = accuracy_of(solved[name])
        yield f"  student of {name}: {found.share:.1%} ({found.low:.1%} to {found.high:.1%}) of {found.problems}"
    gains = np.array(solved["steps"], float) - np.array(solved["answers"], float)
    draws = np.random.default_rng(0).integers(0, TESTED, (RESAMPLES, TESTED))
    low, high = np.quantile(gains[draws].mean(axis=1), (0.025, 0.975))
    yield f"  gain: {gains.mean():.1%} ({low:.1%} to {high:.1%})"


def main() -> int:
    teachers = sorted(Path(sys.argv[1]).glob("chain-steps-*")) if len(sys.argv) > 1 else []
    if not teachers:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/rationales")
    for teacher in teachers:
        for line in rationales_lines(teacher, folder / teacher.name, *map(int, sys.argv[3:4])):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
