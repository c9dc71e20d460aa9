"""`python -m benchmarks.scoring SOURCE TASK TASK_DATA [LIMIT]`: a choice task scored by us and by Transformers.

SOURCE is a run or a checkpoint; Transformers gets its export, reads the same prompts by its own tokenizer, one text at
a time, and picks the likeliest answer. Scores are printed as `evaluate` prints them, without examples before a record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def scoring_lines(source: str, task: str, task_data: str, limit: str = "200") -> Iterator[str]:
    """Yield our score, that of Transformers, and the largest difference between two likelihoods."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result, details = folder / "evaluation.json", folder / "details.jsonl"
        _headrace(
            "evaluate", f"source='{source}'", f"tasks=['{task}']", f"task_data='{task_data}'", f"limit={limit}",
            "shots=0", f"output='{result}'", f"details='{details}'",
        )  # fmt: skip
        _headrace("export", f"source='{source}'", f"output='{folder / 'export'}'")
        ours = json.loads(result.read_text(encoding="utf-8"))["tasks"][Path(task).stem]["scores"]["accuracy"]["value"]
        rows = [json.loads(line) for line in details.read_text(encoding="utf-8").splitlines()]
        theirs, difference = _by_transformers(folder / "export", rows)
    yield f"{source}: accuracy on {len(rows)} records of {task}: ours {ours:.4f}, Transformers {theirs:.4f}"
    yield f"largest difference between two log-likelihoods: {difference:.1e} nats"


def _by_transformers(export: Path, rows: list[dict]) -> tuple[float, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(export)
    start = [model.config.eos_token_id]
    right, difference = 0, 0.0
    for row in rows:
        context = tokenizer(row["prompt"], add_special_tokens=False).input_ids
        nats = []
        for choice in row["choices"]:
            ids = tokenizer(f"{row['prompt']} {choice}", add_special_tokens=False).input_ids
            shared = next((at for at, (a, b) in enumerate(zip(ids, context)) if a != b), len(context))
            with torch.no_grad():
                scores = model(torch.tensor([start + ids])).logits[0].log_softmax(-1)
            nats.append(sum(float(scores[at, ids[at]]) for at in range(shared, len(ids))))
        right += nats.index(max(nats)) == row["right"]
        difference = max(difference, *(abs(a - b) for a, b in zip(nats, row["nats"])))
    return right / len(rows), difference


def _headrace(verb: str, *settings: str) -> None:
    subprocess.run([sys.executable, "-m", "launch.command", verb, *settings], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    if len(sys.argv) not in (4, 5):
        print(__doc__, file=sys.stderr)
        return 2
    for line in scoring_lines(*sys.argv[1:]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
