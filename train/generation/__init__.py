"""Many prompts at once: what follows them, and how likely given continuations are."""
