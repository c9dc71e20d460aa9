"""The whole plan: the recommended layout, its time, its cost, and what failures take of it at several sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from launch.plan.failures import Goodput, goodput
from launch.plan.recommendation import Option, Recommendation, recommend
from launch.plan.settings import PlanConfig
from train.memory.sizes import parameter_sizes

TOKENS_PER_PARAMETER = 20
"""For the least loss at given operations (Hoffmann et al. 2022, Training Compute-Optimal Large Language Models)."""


@dataclass(frozen=True)
class Run:
    """What the recommended layout comes to.

    Args:
        tokens: trained on.
        seconds: from the first step to the last, failures and checkpoints with it.
        checkpoint_every: steps.
        cost: in the price's unit, or None without a price.
    """

    tokens: float
    steps: int
    goodput: Goodput
    seconds: float
    checkpoint_every: int
    cost: float | None


@dataclass(frozen=True)
class Plan:
    """What `headrace plan` shows.

    Args:
        run: None if nothing fits.
        at: how a run of the same layout per device goes on other numbers of devices.
    """

    config: PlanConfig
    recommendation: Recommendation
    run: Run | None
    at: dict[int, Goodput]

    def json(self) -> dict[str, Any]:
        """Return all of it as plain data: bytes, seconds, tokens per second."""
        chosen = self.recommendation.chosen
        return {
            "model": self.recommendation.model.name,
            "parameters": self.recommendation.work.parameters,
            "active_parameters": self.recommendation.work.active_parameters,
            "devices": self.config.cluster.devices,
            "device": self.config.device.name,
            "network": self.config.network.name,
            "sequences": self.recommendation.sequences,
            "limits": self.recommendation.limits,
            "chosen": option_json(chosen) if chosen else None,
            "options": [option_json(option) for option in self.recommendation.shown],
            "run": asdict(self.run) if self.run else None,
            "goodput": {str(devices): asdict(value) for devices, value in self.at.items()},
        }


def make_plan(config: PlanConfig) -> Plan:
    """Work everything out."""
    recommendation = recommend(config)
    chosen = recommendation.chosen
    state = float(parameter_sizes(recommendation.model, config.optimizer).state_bytes)
    sheet = config.device
    at = {
        devices: goodput(config.failures, devices, config.devices_per_node, state, sheet.host_bandwidth)
        for devices in config.goodput_at
    }
    run = _run(config, recommendation, chosen, state) if chosen else None
    return Plan(config, recommendation, run, at)


def _run(config: PlanConfig, recommendation: Recommendation, chosen: Option, state: float) -> Run:
    devices = config.cluster.devices
    kept = goodput(config.failures, devices, config.devices_per_node, state, config.device.host_bandwidth)
    tokens = config.tokens or TOKENS_PER_PARAMETER * recommendation.work.active_parameters
    of_step = recommendation.sequences * config.data.sequence_length
    steps = max(1, -(-int(tokens) // of_step))
    seconds = steps * chosen.time.total / kept.share
    cost = None if config.price is None else config.price * devices * seconds / 3600
    return Run(tokens, steps, kept, seconds, max(1, round(kept.interval / chosen.time.total)), cost)


def option_json(option: Option) -> dict[str, Any]:
    """Return a layout as plain data."""
    layout = option.layout
    peak = option.footprint.peak
    return {
        "name": option.name,
        "stage": layout.zero.stage,
        "offload": layout.zero.offload_optimizer,
        "activation_checkpointing": layout.activation_checkpointing,
        "micro": layout.micro,
        "accumulation": layout.accumulation,
        "fits": option.fits,
        "memory": {
            "needed": option.needed,
            "peak": peak.total,
            "moment": option.footprint.moment,
            "host": option.footprint.host,
            **{part.name: getattr(peak, part.name) for part in fields(peak)},
        },
        "step": {"total": option.time.total, **asdict(option.time)},
        "tokens_per_second_per_device": option.tokens_per_second,
        "mfu": option.mfu,
    }
