"""Where the time of a training step goes: by part, by operator, as a trace."""
