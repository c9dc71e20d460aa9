"""Checkpoints by parameter: any ZeRO stage at any world size reads the ranges it needs; no pickle, nothing torn."""
