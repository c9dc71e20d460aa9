"""Makes the configuration dataclasses of the launchers known to Hydra, once."""

from data_pipeline.foundation.configuration import register
from launch.deepspeed import DeepspeedCluster
from launch.slurm.settings import SlurmCluster
from launch.torchrun import TorchrunCluster

CLUSTERS = {"torchrun": TorchrunCluster, "deepspeed": DeepspeedCluster, "slurm": SlurmCluster}


def register_schemas() -> None:
    """Register the schemas of the options of `cluster`, but for `local`, which the root's own is for."""
    for name, schema in CLUSTERS.items():
        register(f"{name}_schema", schema, group="cluster")
