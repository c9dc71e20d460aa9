"""What a profile says to a person: where a step's time goes, which operators take it, and what to try."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from train.memory.room import gigabytes
from train.profile.measure import Profile

DATA, LOGGING, COMMUNICATION, OPTIMIZER, OTHER = 0.05, 0.02, 0.2, 0.2, 0.1
"""Shares of a step from which on a part is worth a thought."""
SMALL_STEP = 0.02
"""Seconds of a step below which Python's own time counts."""


def print_profile(profile: Profile, console: Console) -> None:
    """Print tables of parts, operators and memory, and advice."""
    speed = f"{profile.tokens / profile.step_seconds:,.0f} tokens/s"
    mfu = f", MFU {profile.mfu:.0%}" if profile.mfu is not None else ""
    console.print(f"a step takes {1000 * profile.step_seconds:,.1f} ms: {profile.tokens:,} tokens, {speed}{mfu}")
    console.print(_parts(profile))
    console.print(_operators(profile))
    console.print(_memory(profile))
    for line in advice(profile):
        console.print(f"• {line}")
    console.print(f"trace: {profile.trace}, for https://ui.perfetto.dev or chrome://tracing", markup=False)


def advice(profile: Profile) -> list[str]:
    """Return what the figures suggest to try, the plainest first."""
    step = sum(seconds for part, seconds in profile.parts.items() if part != "checkpoint")
    share = {part: seconds / step for part, seconds in profile.parts.items()}
    found = []
    if share["data"] > DATA:
        found.append(
            f"data: {share['data']:.0%} of a step waits for it. Put the dataset on a local disk (data.cache), or see "
            "that the machine has a core to spare for reading"
        )
    if share["communication"] > COMMUNICATION:
        found.append(
            f"communication: {share['communication']:.0%} of a step. A larger batch.micro or more accumulation sends "
            "less per token; so does a lower ZeRO stage, where the memory is there; zero.overlap_communication=true"
        )
    if share["optimizer"] > OPTIMIZER:
        found.append(
            f"optimizer: {share['optimizer']:.0%} of a step, which has few tokens for this many parameters: a larger "
            "batch.sequences spreads it"
        )
    if share["logging"] > LOGGING:
        found.append(f"logging: {share['logging']:.0%} of a step: log_every=10 takes a tenth of that")
    if share["other"] > OTHER or step < SMALL_STEP:
        found.append(
            f"other: {share['other']:.0%} of a step of {1000 * step:.0f} ms is bookkeeping: the model or the batch is "
            "small; a larger batch.micro fills the device"
        )
    return found


def _parts(profile: Profile) -> Table:
    table = Table("part", "ms a step", "share", title="where a step goes", title_justify="left")
    _right(table)
    step = sum(seconds for part, seconds in profile.parts.items() if part != "checkpoint")
    for part, seconds in profile.parts.items():
        if part != "checkpoint":
            table.add_row(part, f"{1000 * seconds:,.2f}", f"{seconds / step:.1%}")
    table.add_row("checkpoint", f"{1000 * profile.parts['checkpoint']:,.1f}", "each")
    return table


def _operators(profile: Profile) -> Table:
    table = Table("operator", "calls a step", "ms a step", "share", "MB", title="operators", title_justify="left")
    _right(table)
    for each in profile.operators:
        share = each.seconds / profile.operator_seconds if profile.operator_seconds else 0.0
        cells = (f"{each.calls:,.0f}", f"{1000 * each.seconds:,.2f}", f"{share:.1%}", f"{each.bytes / 1e6:,.1f}")
        table.add_row(each.name[:60], *cells)
    return table


def _memory(profile: Profile) -> Table:
    table = Table("memory", "", title=f"at the fullest moment as planned: {profile.moment}", title_justify="left")
    _right(table)
    for name, size in profile.planned.items():
        table.add_row(name, gigabytes(size))
    table.add_row("together", gigabytes(sum(profile.planned.values())))
    table.add_row("the process, measured", gigabytes(profile.peak_bytes))
    return table


def _right(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
