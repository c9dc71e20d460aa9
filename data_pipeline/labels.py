"""What a token of a sample is to a model that is tuned on it: the bits of its label."""

ANSWERS, PREFERENCES, PROBLEMS = "answers", "preferences", "problems"
"""Kinds of samples: with one answer, with a better and a worse one, or with the answer that a model has to find."""

LEARNT = 1
"""The model is to write it."""
REJECTED = 2
"""Of two answers to a prompt, it belongs to the worse one, or to the prompt before that."""
EXPECTED = 8
"""It is what a model's answer is checked against, not shown to it and not learnt."""
MARKUP = 4
"""Of text, before it is encoded: a chat template wrote it, so that names of special tokens in it stand for them."""
