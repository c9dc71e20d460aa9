"""`headrace doctor`: what a machine can do for a run, in lines that are green, yellow or red, with what mends them.

finding    a line
software   Python, torch, CUDA, DeepSpeed, compilers, launchers, wandb
machine    cores, memory, disk, clock, limits, and the environment that ranks get
network    two processes' all-reduce
nodes      the same on every node of a SLURM cluster
"""
