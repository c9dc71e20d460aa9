"""The decoder-only Transformer, its loss, its initialisation and its sizes."""
