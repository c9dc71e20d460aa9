"""Text to tokens and back: tokenizers trained here or anyone's, and the fast way to the same ids."""

from data_pipeline.tokenization.bpe import BpeConfig
from data_pipeline.tokenization.tokenizer_file import TokenizerFileConfig

TOKENIZERS: dict[str, type] = {"bpe": BpeConfig, "file": TokenizerFileConfig}
"""What a configuration can choose by name, and nothing else."""
