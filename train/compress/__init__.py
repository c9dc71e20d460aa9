"""Models made smaller: quantized, pruned, with fewer layers or narrower ones."""
