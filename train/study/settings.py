"""Settings of a study: several trainings that are compared with each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError

KINDS = ("chain_of_thought",)


@dataclass
class StudyConfig:
    """Settings of a study.

    Args:
        kind: None trains one run; `chain_of_thought` compares answers with and without the steps to them.
        seeds: each way is trained with each.
        samples: problems to train on.
        problems: to test on, none of which is trained on.
        chain_steps, product_steps: optimizer steps of each kind of problem; 0 leaves it out.
        chain, product: settings of the trainings on each kind of problem, `KEY=VALUE`.
        controls: seeds, the first ones, of what takes longest: products answered directly, chains until as many tokens
            were learnt, and votes.
        reward_steps: of GRPO, from the product that is half learnt on; 0 leaves it out.
        votes: answers that are drawn of each problem for a vote, of the product that is half learnt.
        at_once: trainings side by side, each with one thread; as many as there are cores if None.
    """

    kind: str | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    samples: int = 60_000
    problems: int = 500
    chain_steps: int = 400
    product_steps: int = 1080
    chain: list[str] = field(default_factory=list)
    product: list[str] = field(default_factory=list)
    controls: int = 1
    reward_steps: int = 20
    votes: int = 20
    at_once: int | None = None


def check_study(config: StudyConfig) -> None:
    """Refuse settings that nothing can be compared with. Raises UserError."""
    if config.kind is not None and config.kind not in KINDS:
        raise UserError(f"study.kind={config.kind}: there is {', '.join(KINDS)}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"study.seeds={config.seeds} must be different numbers, one at least")
    for key, least in {
        "samples": 1000,
        "problems": 1,
        "chain_steps": 0,
        "product_steps": 0,
        "controls": 0,
        "reward_steps": 0,
        "votes": 0,
    }.items():
        if getattr(config, key) < least:
            raise UserError(f"study.{key}={getattr(config, key)} must be at least {least}")
    if not config.chain_steps and not config.product_steps:
        raise UserError("study.chain_steps and study.product_steps are both 0: there is nothing to train")
