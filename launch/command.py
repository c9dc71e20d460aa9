"""The `headrace` command: finds the verb, imports only that."""

from __future__ import annotations

import importlib
import sys

VERBS = {
    "prepare": ("launch.prepare", "a corpus of text → a dataset folder of token shards"),
    "inspect": ("data_pipeline.inspect", "what is in a dataset, and what a run reads in a step"),
    "samples": ("train.evaluate.samples", "tasks' worked examples → samples to tune on"),
    "plan": ("launch.plan.command", "memory, speed, time and cost on a named cluster; starts nothing"),
    "train": ("launch.train", "trains or tunes a model; started again, it goes on"),
    "profile": ("train.profile.command", "where the time and memory of a training step go"),
    "evaluate": ("launch.evaluate", "perplexity and bits per byte of a split or a text file"),
    "generate": ("train.generate", "text from a run or a checkpoint"),
    "serve": ("train.serve.command", "an OpenAI-compatible service for a model, and a page to chat at"),
    "export": ("train.exchange.export", "a run or a checkpoint → a Hugging Face folder or a GGUF file, proven equal"),
    "import": ("train.exchange.intake", "a Hugging Face folder or a GGUF file → a checkpoint, proven equal"),
    "compress": ("train.compress.compress", "a model quantized or pruned, with what it costs"),
    "report": ("train.telemetry.report", "one run or several side by side → one page"),
    "jobs": ("launch.slurm.jobs", "runs that were submitted to SLURM: state, step, loss, time left"),
    "logs": ("launch.slurm.logs", "what a submitted run prints"),
    "cancel": ("launch.slurm.cancel", "ends a submitted run, with a checkpoint first"),
    "doctor": ("launch.doctor.__main__", "what this machine can do, what is missing, and how to mend it"),
    "verify": ("train.verify", "every checksum of a dataset or a checkpoint"),
}

HELP = """headrace: text → token shards → trained Transformer → evaluation

usage: headrace VERB [KEY=VALUE …] [flags]

{verbs}

Every verb has --help with its settings and examples, and --cfg job, which prints the resolved configuration.
Exit codes: 0 done, 1 a failure, 2 a mistake in what was asked, 75 stopped early with a good checkpoint."""


def main() -> int:
    """Run the verb named first on the command line; return its exit code."""
    verb, *arguments = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(HELP.format(verbs="\n".join(f"  {name:<10} {summary}" for name, (_, summary) in VERBS.items())))
        return 0
    if verb == "--version":
        from importlib.metadata import version

        print(version("headrace"))
        return 0
    if verb not in VERBS:
        from difflib import get_close_matches

        guess = get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean `{guess[0]}`?" if guess else ""
        print(f"headrace: there is no verb `{verb}`.{hint} Verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return importlib.import_module(VERBS[verb][0]).VERB.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
