"""Models, objectives, the DeepSpeed engine, the training loop, checkpoints, evaluation and generation."""
