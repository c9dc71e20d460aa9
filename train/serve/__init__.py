"""An OpenAI-compatible service: requests, the engine that continues them together, and a page to chat at."""
