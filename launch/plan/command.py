"""`headrace plan`: memory, speed, time and cost of a run on a named cluster; recommends a layout; starts nothing."""

from __future__ import annotations

import json
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.verb import Request, Verb


def _run(request: Request) -> int:
    from rich.console import Console

    from data_pipeline.foundation.progress import say
    from launch.plan.apply import NAME, apply_plan
    from launch.plan.page import write_page
    from launch.plan.picture import LEAST_WIDTH, print_plan
    from launch.plan.plan import make_plan
    from launch.plan.settings import PlanConfig, check_plan

    composed = request.compose("plan", PlanConfig)
    if composed is None:
        return 0
    config = composed.value
    check_plan(config)
    if config.output and not Path(config.output).parent.is_dir():
        raise UserError(f"`output={config.output}`: there is no folder {Path(config.output).parent} to write it to")
    plan = make_plan(config)
    if request.json:
        print(json.dumps(plan.json(), ensure_ascii=False))
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.width = max(console.width, LEAST_WIDTH)
        print_plan(plan, console)
    if config.output:
        write_page(plan, Path(config.output))
        say(f"picture: {config.output}")
    if request.apply:
        written = apply_plan(plan, Path(config.folder))
        say(f"{written}: headrace train --config-dir {config.folder} experiment={NAME} data.path=…")
    return 0 if plan.recommendation.chosen else 1


VERB = Verb(
    name="plan",
    summary="memory, speed, time and cost of a run on a named cluster; recommends a layout; starts nothing",
    run=_run,
    groups=("model", "optimizer", "precision", "device", "network"),
    keys=(
        ("nodes", "machines"),
        ("devices_per_node", "devices of each, 8 if left out"),
        ("data.sequence_length", "tokens of a model's input"),
        ("batch.sequences, .micro", "of a step over all devices, of a forward pass; found if left out"),
        ("stages, offload", "what of ZeRO is considered: stages=[1,2], offload=true"),
        ("activation_checkpointing", "true or false; both are considered if left out"),
        ("recomputed", "what of a block it works out again: blocks, cheap or host"),
        ("tokens", "to be trained on; 20 per parameter if left out"),
        ("parallel.sequence", "devices that share each sequence, for long contexts"),
        ("parallel.tensor", "devices that split each block, for large models"),
        ("price", "of a device and hour, in your money"),
        ("failures.device_hours", "of a device between failures"),
        ("device.KEY, network.KEY", "other figures than the sheet's"),
        ("output", "an HTML page with the picture"),
        ("folder", "where --apply writes: `headrace train --config-dir FOLDER experiment=planned`"),
    ),
    examples=(
        "headrace plan model=llama_8b device=h100 nodes=8 network=infiniband_400 output=plan.html",
        "headrace plan model=llama_70b device=h200 nodes=64 tokens=2e12 price=2.5 --json",
        "headrace plan model=llama_1b device=a100 data.sequence_length=2048 batch.sequences=512 --apply",
    ),
    flags=("--json", "--apply"),
)

if __name__ == "__main__":
    raise SystemExit(VERB.main())
