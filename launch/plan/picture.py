"""What a plan looks like: each option's memory as a stack and its step as a bar, for the terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.plan.plan import Plan
from launch.plan.recommendation import Option
from train.memory.room import gigabytes
from train.telemetry.display import amount, duration

COLUMNS = 20
LEAST_WIDTH = 118
"""Characters of a line with both bars."""

MEMORY_PARTS = (
    ("parameters", "weights", "blue"),
    ("gradients", "gradients", "green"),
    ("optimizer", "optimizer", "yellow"),
    ("activations", "activations", "red"),
    ("loss", "loss", "magenta"),
    ("buffers", "buffers, flat copies", "cyan"),
    ("allowance", "gaps, libraries", "bright_black"),
)
TIME_PARTS = (
    ("matrix", "matrix products", "blue"),
    ("attention", "attention", "cyan"),
    ("moved", "moving data", "yellow"),
    ("recomputed", "recomputing", "red"),
    ("communication", "communication", "magenta"),
    ("update", "update", "green"),
)


@dataclass(frozen=True)
class Bar:
    """A bar of named parts, in their own unit."""

    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        return sum(value for _, value in self.parts)


def memory_bar(option: Option) -> Bar:
    """Return the bytes on the device at the fullest moment, and what is allowed for on top."""
    peak = option.footprint.peak
    held = tuple((part.name, float(getattr(peak, part.name))) for part in fields(peak))
    return Bar((*held, ("allowance", option.needed - peak.total)))


def time_bar(option: Option) -> Bar:
    """Return the seconds of a step, by what they go into."""
    return Bar(tuple((name, getattr(option.time, name)) for name, _, _ in TIME_PARTS))


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan for a person."""
    config, recommendation = plan.config, plan.recommendation
    cluster, work = config.cluster, recommendation.work
    console.print(
        f"{recommendation.model.name}: {work.parameters:,} parameters"
        + (f", {work.active_parameters:,} of them active" if work.active_parameters < work.parameters else "")
        + f", {config.precision.kind}; "
        f"{recommendation.sequences:,} sequences × {config.data.sequence_length:,} tokens a step",
        markup=False,
    )
    console.print(
        f"{cluster.devices:,} × {config.device.name}"
        + (f", {config.devices_per_node} a machine, {config.network.name}\n" if config.nodes > 1 else "\n"),
        markup=False,
    )
    console.print(_table(plan))
    console.print(_legend("memory", MEMORY_PARTS))
    console.print(_legend("step", TIME_PARTS))
    for line in plan_lines(plan):
        console.print(line, markup=False)


def _table(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, side in (("", "left"), ("micro", "right"), ("memory", "left"), ("", "right"), ("step", "left")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for name in ("", "tokens/s each", "MFU"):
        table.add_column(name, justify="right", no_wrap=True)
    widest = max(plan.config.device.memory, 1.0)
    slowest = max((option.time.total for option in plan.recommendation.shown if option.fits), default=1.0)
    for option in plan.recommendation.shown:
        chosen = plan.recommendation.chosen is not None and option.kind == plan.recommendation.chosen.kind
        layout = option.layout
        row: list[str | Text] = [
            Text(("▸ " if chosen else "  ") + option.name, style="bold" if chosen else ""),
            f"{layout.micro}×{layout.accumulation}",
            _drawn(memory_bar(option), MEMORY_PARTS, widest),
            Text(gigabytes(option.needed), style="" if option.fits else "red"),
        ]
        if option.fits:
            row += [
                _drawn(time_bar(option), TIME_PARTS, slowest),
                _seconds(option.time.total),
                f"{option.tokens_per_second:,.0f}",
                f"{option.mfu:.0%}",
            ]
        else:
            row += [Text("does not fit", style="red"), "", "", ""]
        table.add_row(*row)
    return table


def _drawn(bar: Bar, parts: tuple[tuple[str, str, str], ...], whole: float) -> Text:
    """Return a bar in characters, of which `COLUMNS` stand for `whole`; what goes beyond is cut with a mark."""
    text, drawn, end = Text(), 0, 0.0
    colours = {name: colour for name, _, colour in parts}
    for name, value in bar.parts:
        end += value
        columns = min(COLUMNS, round(end / whole * COLUMNS)) - drawn
        text.append("█" * columns, style=colours[name])
        drawn += columns
    text.append("▶" if bar.total > whole * 1.0001 else "", style="red")
    return text


def _legend(name: str, parts: tuple[tuple[str, str, str], ...]) -> Text:
    text = Text(f"{name:<8}", style="dim")
    for _, label, colour in parts:
        text.append("█ ", style=colour).append(f"{label}   ", style="dim")
    return text


def plan_lines(plan: Plan) -> list[str]:
    """Return what a plan says in words."""
    chosen, run = plan.recommendation.chosen, plan.run
    if chosen is None or run is None:
        return ["", f"nothing fits: {plan.recommendation.limits}"]
    layout, kept = chosen.layout, run.goodput
    cost = f", {amount(run.cost)} at {plan.config.price:g} a device and hour" if run.cost is not None else ""
    described = plan.config.parallel.described
    ranks = f"{plan.config.readers:,} times {described}" if described else f"{layout.ranks:,} ranks"
    lines = [
        "",
        f"use       {chosen.name}, micro-batch {layout.micro} × accumulation {layout.accumulation} × {ranks}; "
        f"{gigabytes(chosen.footprint.peak.total)} of tensors ({chosen.footprint.moment})",
        f"limited   by {plan.recommendation.limits}",
        f"overlap   {_seconds(chosen.time.hidden)} of communication a step runs beside computing",
        f"run       {run.steps:,} steps, {amount(run.tokens)} tokens: {duration(run.seconds)}{cost}",
        f"failures  one in {duration(kept.between_failures)}; save every {duration(kept.interval)} "
        f"({run.checkpoint_every:,} steps); {kept.share:.1%} of the time is training",
    ]
    if chosen.footprint.host:
        lines.insert(3, f"host      {gigabytes(chosen.footprint.host)} of host memory for each rank")
    many = "   ".join(f"{devices:,}: {value.share:.1%}" for devices, value in plan.at.items())
    return [*lines, f"goodput   by devices   {many}"]


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
