"""`headrace generate`: text from a run or a checkpoint, streamed as it is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.foundation.verb import Request, Verb

if TYPE_CHECKING:
    from train.chain_of_thought.strategy import StrategyConfig
    from train.generation.settings import GenerateConfig
    from train.sampling import SamplingConfig
    from train.source import Loaded


def run(request: Request) -> int:
    """Continue a prompt, or each line typed at the terminal."""
    from rich.markup import escape

    from data_pipeline.foundation.configuration import register
    from data_pipeline.foundation.progress import say
    from train.chain_of_thought.strategy import StrategyConfig
    from train.generation.settings import GenerateConfig, check_generate
    from train.source import load_source

    register("strategy_schema", StrategyConfig, group="strategy")
    composed = request.compose("generate", GenerateConfig)
    if composed is None:
        return 0
    config = composed.value
    check_generate(config)
    loaded = load_source(Path(config.source), config.average)
    say(escape(f"{loaded.folder}, step {loaded.step:,}"))
    if config.prompts is not None:
        return answer_file(config, loaded, request.json)
    if config.strategy is not None:
        return answer_questions(config, config.strategy, loaded, request.json)
    for prompt in [config.prompt] if config.prompt is not None else typed_prompts():
        for number in range(config.count):
            texts = write(loaded, prompt, replace(config, seed=config.seed + number))
            if request.json:
                print(json.dumps({"prompt": prompt, "text": "".join(texts)}, ensure_ascii=False), flush=True)
                continue
            print(prompt, end="", flush=True)
            for text in texts:
                print(text, end="", flush=True)
            print("\n", flush=True)
    return 0


def write(loaded: Loaded, prompt: str, sampling: SamplingConfig) -> Iterator[str]:
    """Yield the text that follows a prompt, piece by piece. An empty prompt begins a document."""
    from train.sampling import sample_tokens, stream_text

    model = loaded.model
    ids = [loaded.tokenizer.end_of_document, *loaded.tokenizer.encode(prompt)]
    tokens = sample_tokens(model, model.config, ids, sampling, loaded.device, model.norm.weight.dtype)
    return stream_text(tokens, loaded.tokenizer, list(sampling.stop))


def answer_questions(config: GenerateConfig, strategy: StrategyConfig, loaded: Loaded, as_json: bool) -> int:
    """Ask each prompt as a question, by a strategy; print the steps and the answer, with its votes."""
    from dataclasses import asdict

    from train.chain_of_thought.think import examples_before, think
    from train.generation.templates import render
    from train.generation.text_model import TextModel

    before = examples_before(strategy)
    model = TextModel(loaded)
    for question in [config.prompt] if config.prompt is not None else typed_prompts():
        prompt = before + render(strategy.prompt, {"question": question}, "strategy.prompt")
        [thought] = think(model, [prompt], [question], strategy, config.extract, config)
        if as_json:
            print(json.dumps({"prompt": question, **asdict(thought)}, ensure_ascii=False), flush=True)
            continue
        votes = f" ({thought.votes[thought.answer]} of {strategy.samples})" if thought.answer is not None else ""
        print(f"{thought.text}\n\nanswer: {thought.answer or 'none'}{votes}\n", flush=True)
    return 0


def answer_file(config: GenerateConfig, loaded: Loaded, as_json: bool) -> int:
    """Answer a file of prompts as a file of samples to tune on; say how much of it was kept."""
    from dataclasses import asdict

    from rich.markup import escape

    from data_pipeline.foundation.progress import say
    from train.generation.samples_file import write_samples_file

    written = write_samples_file(config, loaded)
    hinted = f" ({written.hinted:,} by a hint)" if written.hinted else ""
    say(
        escape(
            f"{written.output}: {written.kept:,} samples, with answers to {written.solved:,} of {written.prompts:,} "
            f"prompts{hinted}, as `headrace prepare corpus=samples` takes"
        )
    )
    if as_json:
        print(json.dumps(asdict(written)))
    return 0


def typed_prompts() -> Iterator[str]:
    """Yield lines from standard input, asking for them at a terminal."""
    if sys.stdin.isatty():
        print("Type the beginning of a text; an empty line or Ctrl-D ends.", file=sys.stderr)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return
        yield line.rstrip("\n")


VERB = Verb(
    name="generate",
    summary="text from a run or a checkpoint, streamed as it is written",
    run=run,
    groups=("strategy",),
    keys=(
        ("source", "a run's folder, a checkpoint or an exported model"),
        ("average=true", "the average of the weights, of a run with ema.decay"),
        ("prompt", "beginning of the text; left out, prompts are read from standard input"),
        ("tokens", "most tokens to write"),
        ("temperature", "0 always takes the likeliest token"),
        ("top_k, top_p", "draw among the k likeliest, or those that together have probability p"),
        ("seed", "of the draws"),
        ("stop", "texts that end the writing, as a list"),
        ("count", "texts for each prompt"),
        ("extract.how", "with a strategy: where the answer is: whole, number, after or regex"),
        ("prompts, output", "a file of records with `prompt`; the file of samples that the answers become"),
        ("keep=verified", "what has the right `answer` alone; verifier=answer, pattern or arithmetic"),
    ),
    examples=(
        'headrace generate source=runs/demo prompt="This module "',
        'headrace generate source=runs/demo prompt="Return the " temperature=0 tokens=40',
        'headrace generate source=runs/sums prompt="What is 7 + 5?" strategy=self_consistency extract.how=number',
        "headrace generate source=runs/sums prompts=asked.jsonl output=own.jsonl count=8 keep=verified",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
