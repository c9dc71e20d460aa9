"""Prompting strategies that let a model write the steps to an answer, and how the answer is found in what it wrote."""
