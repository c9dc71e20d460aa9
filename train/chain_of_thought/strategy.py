"""How a model is asked to think: settings that combine, of which each published strategy is a choice.

| strategy | settings | source |
|---|---|---|
| zero-shot | `trigger`, `answer_trigger` | Kojima et al. 2022, Large Language Models are Zero-Shot Reasoners |
| few-shot | worked examples before the question | Wei et al. 2022, Chain-of-Thought Prompting |
| self-consistency | `samples`, `temperature` | Wang et al. 2022, Self-Consistency Improves Chain of Thought |
| least-to-most | `decompose`, `solve` | Zhou et al. 2022, Least-to-Most Prompting |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.foundation.errors import UserError


@dataclass
class StrategyConfig:
    """How a model is asked.

    Args:
        prompt: template of a prompt from its `question`, where a task has none of its own.
        trigger: text behind the prompt that lets the model begin with its steps.
        answer_trigger: text behind the steps after which the model is asked again, for the answer alone; empty finds
            the answer in the steps.
        answer_tokens: most tokens of that second answer.
        examples: file of records with `question` and `answer` to put before the prompt in `generate`.
        shots: how many of them, the first ones.
        samples: answers to draw for each question, of which the most frequent is taken.
        temperature: at which they are drawn, where there are several.
        decompose: template that asks for the parts of a `question`, one a line; empty doesn't.
        solve: template that asks for the answer of a `part` of a `question`, given those `solved`: pairs of part and
            answer.
        parts: most parts of a question.
    """

    prompt: str = "Q: {{ question }}\nA:"
    trigger: str = ""
    answer_trigger: str = ""
    answer_tokens: int = 32
    examples: str | None = None
    shots: int = 8
    samples: int = 1
    temperature: float = 0.7
    decompose: str = ""
    solve: str = ""
    parts: int = 8


def check_strategy(config: StrategyConfig) -> None:
    """Raise UserError for settings outside their range."""
    if config.samples < 1 or config.parts < 1 or config.answer_tokens < 1 or config.shots < 0:
        raise UserError("strategy takes samples ≥ 1, parts ≥ 1, answer_tokens ≥ 1 and shots ≥ 0")
    if config.samples > 1 and config.temperature <= 0:
        raise UserError("strategy.samples above 1 needs strategy.temperature above 0: without, all would be the same")
    if config.decompose and (config.trigger or config.answer_trigger):
        raise UserError("strategy.decompose asks for parts and answers in its own templates: leave triggers out")
    if bool(config.decompose) != bool(config.solve):
        raise UserError("strategy.decompose and strategy.solve belong together: the one asks for parts, the other each")


def load_strategy(value: str | dict[str, Any] | None) -> StrategyConfig:
    """Return the strategy of an option's name in `conf/strategy/`, of settings of its own, or the plain one.

    Settings may begin from an option: `{name: self_consistency, samples: 20}`.

    Raises:
        UserError: no such option, or no such setting.
    """
    import yaml

    from data_pipeline.foundation.configuration import configuration_folder, nearest
    from data_pipeline.foundation.options import option_names
    from data_pipeline.foundation.typed import typed

    settings = {"name": value} if isinstance(value, str) else dict(value or {})
    name = settings.pop("name", None)
    if name is not None:
        options = option_names("strategy")
        if name not in options:
            raise UserError(f"`strategy` has no option `{name}`.{nearest(name, options)} Options: {', '.join(options)}")
        text = Path(configuration_folder() / "strategy" / f"{name}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
        content.pop("defaults", None)
        settings = content | settings
    config = typed(StrategyConfig, settings, "strategy")
    check_strategy(config)
    return config
