"""What a run records while it goes, what it shows meanwhile, and the report that is left of it."""
