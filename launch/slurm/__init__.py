"""Runs on a SLURM cluster: submitted with a copy of their code, watched, cancelled with a checkpoint.

settings    what the user says, checked so that no value can become code
script      the batch script's text
snapshot    the copy of code and settings
submission  the flow: check, copy, write, submit; and what is known of a submitted run
jobs, logs, cancel   the verbs
"""
