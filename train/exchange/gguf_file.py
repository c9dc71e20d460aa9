"""GGUF files, which llama.cpp runs: our settings and parameters by the names that it gives them.

In its `llama` architecture the two halves of a head that rotate against each other lie interleaved, so there the rows
of query and key matrices change places; in `qwen2` and `qwen3` they lie as with us. The `gguf` package reads, writes,
quantizes and restores; this module knows what goes where.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from train.exchange.architectures import CLASSES, model_type_of
from train.exchange.gguf_tokenizer import GgufVocabulary
from train.model.transformer import TransformerConfig

PARTS = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
DTYPES = ("float32", "float16", "q8_0")
BLOCK = 32
"""Values of a row that share a scale in Q8_0."""
LINEAGE = "headrace.lineage"
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def gguf_package() -> ModuleType:
    """Return the `gguf` package. Raises UserError: it isn't installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the package gguf: pip install 'headrace[export]'") from None
    return gguf


def gguf_name(parameter: str) -> str:
    """Return what GGUF files call a parameter of ours."""
    if not parameter.startswith("blocks."):
        part, _, kind = parameter.rpartition(".")
        return f"{PARTS[part]}.{kind}"
    _, layer, rest = parameter.split(".", 2)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def interleave(values: Tensor, heads: int) -> Tensor:
    """Bring the rows of each head from two halves into pairs: 0, K/2, 1, K/2 + 1 …"""
    return values.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(values.shape)


def separate(values: Tensor, heads: int) -> Tensor:
    """Undo `interleave`."""
    return values.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(values.shape)


def _turned_heads(parameter: str, config: TransformerConfig) -> int | None:
    """Return the heads of a parameter whose rows change places, or None where they don't."""
    if model_type_of(config) != "llama":
        return None
    heads = {"attention.query": config.heads, "attention.key": config.key_value_heads}
    return next((count for part, count in heads.items() if f".{part}." in parameter), None)


def kind_of(shape: tuple[int, ...], dtype: str) -> str:
    """Return how GGUF stores a tensor: vectors always as F32, matrices as asked for where their rows can be cut so."""
    if len(shape) == 1 or dtype == "float32":
        return "F32"
    return "Q8_0" if dtype == "q8_0" and shape[-1] % BLOCK == 0 else "F16"


def rounded(values: Tensor, dtype: str) -> Tensor:
    """Return what is left of values that were stored."""
    gguf = gguf_package()
    kind = gguf.GGMLQuantizationType[kind_of(tuple(values.shape), dtype)]
    return torch.from_numpy(gguf.dequantize(gguf.quantize(values.numpy(), kind), kind))


def write_gguf(
    path: Path,
    config: TransformerConfig,
    vocabulary: GgufVocabulary,
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    dtype: str,
    name: str,
    lineage: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    """Write a GGUF file, tensor by tensor.

    Args:
        shapes: of our parameters, by name.
        read: gives one of them, float32.
        dtype: of `DTYPES`.
        progress: told the bytes of weights written since it was last told.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, model_type_of(config))
    _add_settings(writer, config, dtype, name)
    _add_vocabulary(writer, vocabulary)
    writer.add_string(LINEAGE, json.dumps(lineage, ensure_ascii=False))
    kinds = {name: gguf.GGMLQuantizationType[kind_of(shape, dtype)] for name, shape in shapes.items()}
    for parameter, shape in shapes.items():
        stored = gguf.quant_shape_to_byte_shape(shape, kinds[parameter])
        size = torch.Size(stored).numel()
        # The package takes the shape in bytes of what is quantized, and in values of what isn't.
        raw = kinds[parameter] == gguf.GGMLQuantizationType.Q8_0
        element = {"F32": "float32", "F16": "float16", "Q8_0": "uint8"}[kinds[parameter].name]
        writer.add_tensor_info(
            gguf_name(parameter), stored if raw else shape, _numpy_type(element), size, kinds[parameter]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for parameter in shapes:
        values = read(parameter)
        heads = _turned_heads(parameter, config)
        values = values if heads is None else interleave(values, heads)
        stored = gguf.quantize(values.contiguous().numpy(), kinds[parameter])
        writer.write_tensor_data(stored)
        progress(stored.nbytes)
    writer.close()


def _numpy_type(name: str) -> Any:
    import numpy

    return numpy.dtype(name)


def _add_settings(writer: Any, config: TransformerConfig, dtype: str, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config.maximum_length)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_key_length(config.width_of_head)
    writer.add_value_length(config.width_of_head)
    writer.add_rope_dimension_count(config.width_of_head)
    writer.add_rope_freq_base(config.rotary_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocabulary_size)
    writer.add_file_type({"float32": 0, "float16": 1, "q8_0": 7}[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf_package().GGML_QUANT_VERSION)


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    for ours, theirs in SPECIAL.items():
        if ours in vocabulary.special_ids:
            writer.add_uint32(f"tokenizer.ggml.{theirs}_token_id", vocabulary.special_ids[ours])
    writer.add_add_bos_token(vocabulary.add_bos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


class GgufModel:
    """A GGUF file: the model that it describes, its vocabulary, and its tensors, one at a time.

    Raises:
        UserError: it is of another architecture, or asks for what our model doesn't compute.
        Failure: it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        gguf = gguf_package()
        try:
            reader = gguf.GGUFReader(path)
            self._fields = reader.fields
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        except (OSError, ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError) as error:
            raise Failure(f"{path} can't be read: {' '.join(str(error).split())}") from None
        self.shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in self._tensors.items()}
        self.config = self._config()

    def read(self, name: str) -> Tensor:
        """Return a tensor by the file's name, float32, as it lies there."""
        tensor = self._tensors[name]
        try:
            values = gguf_package().dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{self.path}: {name} is stored as {tensor.tensor_type.name}, which can't be read"
            ) from None
        return torch.from_numpy(values.copy()).reshape(self.shapes[name])

    def parameter(self, name: str) -> Tensor:
        """Return a parameter by its name with us, float32, in our order."""
        values = self.read(gguf_name(name))
        heads = _turned_heads(name, self.config)
        return values if heads is None else separate(values, heads)

    def vocabulary(self) -> GgufVocabulary:
        """Return the tokenizer's part. Raises UserError: it is no byte-level BPE."""
        kind = self._get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise UserError(
                f"{self.path} has a tokenizer of the kind {kind!r}; byte-level BPE (gpt2) can be taken in. Import the "
                "model's Hugging Face folder instead"
            )
        ids = {ours: self._get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in SPECIAL.items()}
        return GgufVocabulary(
            cut=self._get("tokenizer.ggml.pre") or "gpt-2",
            tokens=self._get("tokenizer.ggml.tokens") or [],
            kinds=self._get("tokenizer.ggml.token_type") or [],
            merges=self._get("tokenizer.ggml.merges") or [],
            chat_template=self._get("tokenizer.chat_template"),
            special_ids={key: int(i) for key, i in ids.items() if i is not None},
            add_bos=bool(self._get("tokenizer.ggml.add_bos_token")),
        )

    @property
    def lineage(self) -> dict[str, Any] | None:
        """The lineage that we wrote into the file, or None where others wrote it."""
        try:
            found = json.loads(self._get(LINEAGE) or "null")
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _get(self, key: str) -> Any:
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def _config(self) -> TransformerConfig:
        architecture = self._get("general.architecture")
        if architecture not in CLASSES:
            raise UserError(
                f"{self.path} is a model of the architecture {architecture!r}; what can be taken in is "
                f"{', '.join(CLASSES)}"
            )
        if (self._get("split.count") or 1) > 1:
            raise UserError(f"{self.path} is one of {self._get('split.count')} parts: merge them first")

        def get(key: str, default: Any = None) -> Any:
            found = self._get(f"{architecture}.{key}")
            if found is None and default is None:
                raise UserError(f"{self.path} lacks {architecture}.{key}")
            return default if found is None else found

        heads, width = get("attention.head_count"), get("embedding_length")
        head_width = get("attention.key_length", 0) or width // heads
        demands = {
            "rope.scaling.type": ("none", get("rope.scaling.type", "none")),
            "rope.dimension_count": (head_width, get("rope.dimension_count", head_width)),
            "attention.value_length": (head_width, get("attention.value_length", head_width)),
            "expert_count": (0, get("expert_count", 0)),
        }
        for key, (expected, found) in demands.items():
            if found != expected:
                raise UserError(f"{self.path} has {architecture}.{key}={found}; our model computes {expected} alone")
        vocabulary = self.shapes.get("token_embd.weight", (0,))[0]
        return TransformerConfig(
            name=architecture,
            vocabulary_size=vocabulary,
            width=width,
            layers=get("block_count"),
            heads=heads,
            key_value_heads=get("attention.head_count_kv", heads),
            head_width=None if head_width * heads == width else head_width,
            hidden_width=get("feed_forward_length"),
            maximum_length=get("context_length"),
            rotary_theta=_shortest(get("rope.freq_base", 10000.0)),
            norm_epsilon=_shortest(get("attention.layer_norm_rms_epsilon")),
            tied_embeddings="output.weight" not in self.shapes,
            query_key_norm="blk.0.attn_q_norm.weight" in self.shapes,
            attention_bias="blk.0.attn_q.bias" in self.shapes,
            attention_output_bias="blk.0.attn_output.bias" in self.shapes,
            feed_forward_bias="blk.0.ffn_up.bias" in self.shapes,
        ).resolve(vocabulary)


def _shortest(value: float) -> float:
    """Return the shortest decimal number that float32 stores as this one: 1e-5 and not 9.99999974738e-06."""
    import numpy

    return float(str(numpy.float32(value)))
