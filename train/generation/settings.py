"""Settings of `headrace generate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.strategy import StrategyConfig
from train.sampling import SamplingConfig


@dataclass
class GenerateConfig(SamplingConfig):
    """What `headrace generate` continues, and how.

    Args:
        source: a run's folder, a checkpoint or an exported model.
        prompt: beginning of the text; None reads prompts from standard input, one a line.
        count: texts to write for each prompt, with seeds counted up from `seed`.
        strategy: how a prompt is asked as a question; None continues it as a text.
        extract: with a strategy, where the answer is in what was written.
    """

    source: str = "???"
    prompt: str | None = None
    count: int = 1
    strategy: StrategyConfig | None = None
    extract: ExtractConfig = field(default_factory=ExtractConfig)
