"""Makes the configuration dataclasses of this package known to Hydra, once."""

from data_pipeline.foundation.configuration import register
from train.settings import TrainConfig
from train.telemetry.trackers import TrackerConfig


def register_schemas() -> None:
    """Register the schema of the root, and those that options of a group name themselves."""
    register("train_schema", TrainConfig)
    register("tracker_schema", TrackerConfig, group="tracker")
