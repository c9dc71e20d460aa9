"""Data sheets: a device and the network between machines. One YAML file each in conf/device and conf/network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DeviceConfig:
    """A device, of which one process uses one.

    Args:
        peak_flops: dense matrix products, operations per second, by precision.
        memory: bytes.
        memory_bandwidth: bytes per second.
        link_bandwidth: bytes per second in one direction to the other devices of its machine, all links together.
        host_bandwidth: bytes per second to host memory.
        matrix_efficiency: share of the peak that large matrix products reach in training.
        attention_efficiency: share of the peak that fused attention reaches.
        bandwidth_efficiency: share of the memory's bandwidth that kernels reach which only move data.
    """

    name: str = "???"
    is_gpu: bool = True
    peak_flops: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    memory_bandwidth: float = 0.0
    link_bandwidth: float = 0.0
    host_bandwidth: float = 0.0
    matrix_efficiency: float = 0.6
    attention_efficiency: float = 0.35
    bandwidth_efficiency: float = 0.8


@dataclass
class NetworkConfig:
    """What connects machines.

    Args:
        bandwidth: bytes per second and device in one direction.
        latency: seconds of a message between two machines.
        efficiency: share of the bandwidth, of links within a machine too, that large collectives reach.
    """

    name: str = "???"
    bandwidth: float = 0.0
    latency: float = 0.0
    efficiency: float = 0.8


@dataclass(frozen=True)
class Cluster:
    """Equal machines of equal devices."""

    device: DeviceConfig
    network: NetworkConfig
    nodes: int
    devices_per_node: int

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_per_node
