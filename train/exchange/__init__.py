"""Models on their way to and from other programs: Hugging Face folders and GGUF files, each proven equal."""
