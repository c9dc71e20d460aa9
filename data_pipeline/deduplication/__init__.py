"""Finds documents that are the same, or nearly the same, over a whole corpus, in memory that doesn't grow with it."""
