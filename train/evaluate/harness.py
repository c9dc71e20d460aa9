"""Tasks of lm-evaluation-harness on our models; `pip install headrace[harness]`.

The harness makes the prompts, encodes them, finds the answers and computes the scores; the model only says how likely
ids are, and what follows a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.files import json_hash
from train.evaluate.scores import Score
from train.generation.text_model import TextModel
from train.sampling import SamplingConfig

RESAMPLINGS = 1000


def run_harness(tasks: Sequence[str], model: TextModel, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the scores of a model on tasks of the harness, as `evaluation.json` holds them.

    Args:
        tasks: names of tasks that the harness has, which may download their data; or paths of YAML files like its.
        limit: first records of each task alone.

    Raises:
        UserError: the harness isn't installed, doesn't know a task, or a file isn't one of its tasks.
    """
    asked = [read_task(Path(name)) if name.endswith((".yaml", ".yml")) else name for name in tasks]
    try:
        import lm_eval
    except ImportError:
        raise UserError("harness= needs lm-evaluation-harness: pip install 'headrace[harness]'") from None
    import lm_eval.utils
    from lm_eval.tasks import TaskManager

    _close_templates(lm_eval.utils)
    manager = TaskManager(include_defaults=any(isinstance(task, str) for task in asked))
    for task in asked:
        if isinstance(task, str) and task not in manager.all_tasks:
            raise UserError(f"lm-evaluation-harness has no task `{task}`")
    found = lm_eval.simple_evaluate(
        harness_model(model), tasks=asked, limit=limit, task_manager=manager, bootstrap_iters=RESAMPLINGS
    )
    assert found is not None
    return [_scores(found, name, asked) for name in found["results"]]


def read_task(path: Path) -> dict[str, Any]:
    """Return a task of the harness from a file, its data files relative to it.

    Raises:
        UserError: it can't be read, includes others, or names functions, which would run code.
    """
    import yaml

    try:
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"harness={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"harness={path} must be plain data, without functions: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(task, dict) or not isinstance(task.get("task"), str) or "include" in task:
        raise UserError(f"harness={path} must have the name of its `task`, and everything else without an `include`")
    kwargs = task.get("dataset_kwargs") or {}
    if "data_files" in kwargs:
        task["dataset_kwargs"] = kwargs | {"data_files": _beside(kwargs["data_files"], path.parent)}
    return task


def harness_model(model: TextModel) -> Any:
    """Return a model as the harness calls it: an `lm_eval.api.model.TemplateLM`."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class HarnessModel(TemplateLM):
        @property
        def eot_token_id(self) -> int:
            return model.tokenizer.end_of_document

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
            begin = [] if add_special_tokens is False else [model.tokenizer.end_of_document]
            return [*begin, *model.tokenizer.encode(string)]

        def _loglikelihood_tokens(self, requests: list[Any], **others: Any) -> list[tuple[float, bool]]:
            scored = model.likelihoods_of_ids([(context, continuation) for _, context, continuation in requests])
            return [(each.nats, each.greedy) for each in scored]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            pairs, owners = [], []
            for owner, request in enumerate(requests):
                ids = self.tok_encode(request.args[0], add_special_tokens=False)
                windows = get_rolling_token_windows(ids, self.eot_token_id, model.maximum_length, context_len=1)
                for window in windows:
                    pairs.append(make_disjoint_window(window))
                    owners.append(owner)
            totals = [0.0] * len(requests)
            for owner, scored in zip(owners, model.likelihoods_of_ids(pairs)):
                totals[owner] += scored.nats
            return totals

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """Write all requests that are asked for in the same way together."""
            groups: dict[str, list[int]] = {}
            for row, request in enumerate(requests):
                groups.setdefault(repr(request.args[1]), []).append(row)
            written = [""] * len(requests)
            for rows in groups.values():
                sampling = _sampling(dict(requests[rows[0]].args[1]))
                for row, text in zip(rows, model.write([requests[row].args[0] for row in rows], sampling)):
                    written[row] = text
            return written

    return HarnessModel()


def _sampling(settings: dict[str, Any]) -> SamplingConfig:
    """Return what the harness asks of a generation; greedy unless it asks to sample."""
    from lm_eval.models.utils import normalize_gen_kwargs

    wanted = normalize_gen_kwargs(settings, default_max_gen_toks=256)
    sampling = SamplingConfig(wanted["max_gen_toks"], temperature=0.0, top_p=1.0, stop=list(wanted["until"]))
    if not wanted["do_sample"]:
        return sampling
    drawn = {key: wanted[key] for key in ("top_k", "top_p") if key in wanted}
    return replace(sampling, temperature=wanted["temperature"], **drawn)


def _close_templates(harness: Any) -> None:
    """Have the harness fill its templates in a sandbox: a task's file is data, and must not run code."""
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    closed = ImmutableSandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined)
    closed.filters.update(harness.env.filters)
    closed.keep_trailing_newline = harness.env.keep_trailing_newline
    harness.env = closed


def _scores(found: dict[str, Any], name: str, asked: Sequence[Any]) -> dict[str, Any]:
    results, counts = found["results"][name], found.get("n-samples", {}).get(name, {})
    scores = []
    for key, value in results.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        error = results.get(f"{metric}_stderr,{chosen}")
        error = float(error) if isinstance(error, (int, float)) else None
        label = metric if chosen == "none" else f"{metric}/{chosen}"
        scores.append(Score(label, float(value), counts.get("effective"), error).as_json())
    settings = next((task for task in asked if isinstance(task, dict) and task["task"] == name), name)
    return {
        "task": name,
        "kind": "harness",
        "harness_version": found.get("lm_eval_version"),
        "prompt_xxh3_128": json_hash(settings),
        "prompts_and_data_sha256": (found.get("task_hashes") or {}).get(name),
        "records": counts.get("effective"),
        "scores": scores,
    }


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {key: _beside(value, folder) for key, value in files.items()}
    if isinstance(files, list):
        return [_beside(value, folder) for value in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() else files
