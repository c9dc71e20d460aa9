"""`headrace evaluate`, here or as a job on a SLURM cluster."""

from launch.one_process import somewhere
from train.evaluate.__main__ import VERB as HERE

VERB = somewhere(HERE, "train.evaluate")
