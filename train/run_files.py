"""Names in a run's folder that more than one part knows."""

CONFIG, OVERRIDES, ENVIRONMENT = "config.yaml", "overrides.yaml", "environment.json"
CHECKPOINTS = "checkpoints"
LAUNCH = "launch"
"""Folder of whoever starts the run's processes; it is there before the run is."""
