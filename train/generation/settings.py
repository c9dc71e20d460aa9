"""Settings of `headrace generate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_pipeline.foundation.errors import UserError
from train.chain_of_thought.answers import ExtractConfig, check_extract
from train.chain_of_thought.strategy import StrategyConfig, check_strategy
from train.chain_of_thought.verifier import ANSWER, check_verifier
from train.sampling import SamplingConfig, check_sampling

KEEP = ALL, VERIFIED = ("all", "verified")


@dataclass
class GenerateConfig(SamplingConfig):
    """What `headrace generate` continues, and how.

    Args:
        source: a run's folder, a checkpoint or an exported model.
        average: take the average of the weights that training has kept (`ema.decay`).
        prompt: beginning of the text; None reads prompts from standard input, one a line.
        count: texts to write for each prompt, with seeds counted up from `seed`.
        strategy: how a prompt is asked as a question; None continues it as a text.
        extract: with a strategy or `keep=verified`, where the answer is in what was written.
        prompts: a file of records to answer instead, each with `prompt`, and `answer` where that is checked. Without a
            strategy they are asked as samples are that a model was tuned on, not as the beginning of a document.
        output: the file of samples to tune on that they become.
        keep: `all`, or `verified`: what has the right answer; never the same text to the same prompt twice.
        verifier: which answers are right; see `Verifier`.
        hint: template of a question from `prompt` and `answer`, by which what wasn't solved is asked again.
        at_once: most texts written together.
    """

    source: str = "???"
    average: bool = False
    prompt: str | None = None
    count: int = 1
    strategy: StrategyConfig | None = None
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    prompts: str | None = None
    output: str | None = None
    keep: str = ALL
    verifier: str = ANSWER
    hint: str = ""
    at_once: int = 64


def check_generate(config: GenerateConfig) -> None:
    """Raise UserError for settings outside their range, or that don't go together."""
    check_sampling(config)
    if config.strategy is not None:
        check_strategy(config.strategy)
        check_extract(config.extract)
    if (config.prompts is None) != (config.output is None):
        raise UserError("prompts=FILE and output=FILE belong together: answers to the one are written to the other")
    if config.count < 1 or config.at_once < 1:
        raise UserError(f"count={config.count} and at_once={config.at_once} must be at least 1")
    if config.prompts is None:
        if config.keep != ALL or config.hint:
            raise UserError("keep and hint are for answers to a file: give prompts=FILE and output=FILE")
        return
    if config.prompt is not None:
        raise UserError("prompt=TEXT and prompts=FILE exclude each other")
    if config.keep not in KEEP:
        raise UserError(f"keep={config.keep}: there are {', '.join(KEEP)}")
    if config.keep == VERIFIED:
        check_verifier(config.verifier, config.extract)
    elif config.hint:
        raise UserError(f"hint tells an answer that keep={VERIFIED} checks: give that too")
    if config.count > 1 and config.temperature == 0 and (config.strategy is None or config.strategy.samples == 1):
        raise UserError(f"count={config.count} needs temperature above 0: without, all texts would be the same")
