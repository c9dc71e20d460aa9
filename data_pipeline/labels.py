"""What a token of a sample is to a model that is tuned on it: the bits of its label."""

ANSWERS, PREFERENCES = "answers", "preferences"
"""Kinds of samples: with one answer, or with a better and a worse one."""

LEARNT = 1
"""The model is to write it."""
REJECTED = 2
"""Of two answers to a prompt, it belongs to the worse one, or to the prompt before that."""
MARKUP = 4
"""Of text, before it is encoded: a chat template wrote it, so that names of special tokens in it stand for them."""
