"""Seconds of ring collectives over devices of several machines.

Of n ranks each sends (n − 1)/n of the data once in a gather or a scatter, twice in an all-reduce (Patarasu and Yuan
2009). Rings run through all devices of a machine and leave it on all its ports, so the slower of the links within and
the ports between machines sets the pace; every rank that the data passes costs a message's time.
"""

from __future__ import annotations

from dataclasses import replace

from launch.plan.hardware import Cluster

LINK_LATENCY = 2e-6
"""Seconds of a message between two devices of one machine."""


def gather_seconds(cluster: Cluster, size: float, messages: int = 1) -> float:
    """Return the time in which all ranks have all of `size` bytes; as long takes a scatter of sums.

    Args:
        size: bytes of the whole, of which each rank has a part.
        messages: collectives that it comes in.
    """
    ranks = cluster.devices
    if ranks == 1:
        return 0.0
    pace = cluster.device.link_bandwidth
    if cluster.nodes > 1:
        # A ring leaves a machine on the ports of all its devices at once.
        pace = min(pace, cluster.network.bandwidth * cluster.devices_per_node)
    return size * (ranks - 1) / ranks / (pace * cluster.network.efficiency) + messages * _latency(cluster)


def reduce_seconds(cluster: Cluster, size: float, messages: int = 1) -> float:
    """Return the time of an all-reduce: a scatter of sums and a gather."""
    return 2 * gather_seconds(cluster, size, messages)


def exchange_seconds(cluster: Cluster, size: float, ranks: int) -> float:
    """Return the time in which each of `ranks` neighbours sends every other an equal part of its own `size` bytes."""
    within = min(ranks, cluster.devices_per_node)
    pace = cluster.device.link_bandwidth
    if ranks > within:
        # What leaves a machine has each device's own port.
        pace = min(pace, cluster.network.bandwidth * (ranks - 1) / (ranks - within))
    return size * (ranks - 1) / ranks / (pace * cluster.network.efficiency) + _latency(cluster)


def neighbours(cluster: Cluster, ranks: int) -> Cluster:
    """Return the devices of `ranks` neighbours, as a cluster of their own."""
    within = min(ranks, cluster.devices_per_node)
    return replace(cluster, nodes=-(-ranks // within), devices_per_node=within)


def every(cluster: Cluster, ranks: int) -> Cluster:
    """Return one device of each `ranks` neighbours, as a cluster of their own."""
    within = max(1, cluster.devices_per_node // ranks)
    return replace(cluster, nodes=max(1, cluster.devices // ranks // within), devices_per_node=within)


def _latency(cluster: Cluster) -> float:
    """Return the seconds that a ring's messages take: within machines, and once around all of them."""
    return (cluster.devices_per_node - 1) * LINK_LATENCY + (cluster.nodes - 1) * cluster.network.latency
