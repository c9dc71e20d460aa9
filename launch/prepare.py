"""`headrace prepare`, here or as a job on a SLURM cluster."""

from data_pipeline.prepare import VERB as HERE
from launch.one_process import somewhere

VERB = somewhere(HERE, "data_pipeline.prepare")
