"""What failures and checkpoints cost: how often to save, and which share of the time is left for training.

Failures come at random and independently (exponential times between them), as often as there are devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class FailuresConfig:
    """How often something breaks, and what mending takes.

    Args:
        device_hours: of one device between failures that stop a run. 50,700 were seen on 16,384 H100: 419 unexpected
            interruptions in 54 days (Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.3.4).
        restart_seconds: from a failure to the first step after it: noticed, started, loaded.
        storage_bandwidth: bytes per second that each machine writes of a checkpoint.
    """

    device_hours: float = 50_700.0
    restart_seconds: float = 600.0
    storage_bandwidth: float = 2e9


@dataclass(frozen=True)
class Goodput:
    """How a run with failures goes.

    Args:
        between_failures: mean seconds.
        stall: seconds that training stands still for a checkpoint.
        write: seconds until a checkpoint that training doesn't wait for is whole.
        interval: seconds of training between two checkpoints.
        share: of all time that is in steps whose result is kept.
    """

    between_failures: float
    stall: float
    write: float
    interval: float
    share: float


def young_interval(stall: float, between_failures: float) -> float:
    """Return the seconds between checkpoints that lose least, to the first order: √(2·stall·mean time) (Young 1974)."""
    return math.sqrt(2.0 * stall * between_failures)


def daly_interval(stall: float, between_failures: float) -> float:
    """Return them to a higher order, which holds also where failures are frequent (Daly 2006, equation 37)."""
    if stall >= 2.0 * between_failures:
        return between_failures
    ratio = stall / (2.0 * between_failures)
    return young_interval(stall, between_failures) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - stall


def kept_share(interval: float, stall: float, restart: float, between_failures: float) -> float:
    """Return the share of time that is kept, from the expected time of a segment (Daly 2006, equation 20).

    A segment is an interval and its checkpoint, begun again until one passes without a failure; restarts may fail too.
    """
    wall = between_failures * math.exp(restart / between_failures) * math.expm1((interval + stall) / between_failures)
    return interval / wall


def goodput(
    config: FailuresConfig, devices: int, devices_per_node: int, state: float, host_bandwidth: float
) -> Goodput:
    """Return how a run goes whose checkpoints stall for a copy to the host and are written while it goes on.

    Args:
        state: bytes of a checkpoint, over all devices.
        host_bandwidth: bytes per second from a device to its host.

    A checkpoint that is still being written is lost with a failure too, so its write counts with each restart, and
    there is none sooner than the one before is whole.
    """
    between = config.device_hours * 3600.0 / devices
    stall = state / devices / host_bandwidth
    write = state / (config.storage_bandwidth * max(1, devices // devices_per_node))
    interval = max(daly_interval(stall, between), write)
    share = kept_share(interval, stall, config.restart_seconds + write, between)
    return Goodput(between, stall, write, interval, share)
