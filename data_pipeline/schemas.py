"""Makes the configuration dataclasses of this package known to Hydra, once."""

from data_pipeline.cleaning.chain import CleaningConfig
from data_pipeline.foundation.configuration import register
from data_pipeline.preparation.engines import ENGINES
from data_pipeline.prepare import PrepareConfig
from data_pipeline.readers import CORPORA
from data_pipeline.tokenization import TOKENIZERS


def register_schemas() -> None:
    """Register every schema; the YAML files in `conf/` name them as `NAME_schema` in their defaults."""
    register("prepare_schema", PrepareConfig)
    register("cleaning_schema", CleaningConfig, group="cleaning")
    for name, schema in CORPORA.items():
        register(f"{name}_schema", schema, group="corpus")
    for name, schema in TOKENIZERS.items():
        register(f"{name}_schema", schema, group="tokenizer")
    for name, schema in ENGINES.items():
        register(f"{name}_schema", schema, group="engine")
