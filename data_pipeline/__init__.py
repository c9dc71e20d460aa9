"""Text in, batches out: `prepare` writes token shards, `loader` streams them in an order that is a function."""
