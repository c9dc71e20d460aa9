"""Which architecture of Hugging Face's a model of ours is, and what its settings and parameters are called there.

Four are the same computation with other options: Llama, Qwen2 (biases on queries, keys and values alone), Qwen3 (norms
on queries and keys) and Mixtral (experts).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipeline.foundation.errors import UserError
from train.exchange.experts import EACH
from train.model.transformer import Transformer, TransformerConfig

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
"""Model types that can be exchanged, each with its class in Transformers."""

SETTINGS = {
    "vocabulary_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "hidden_width": "intermediate_size",
    "maximum_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}

PARTS = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
    "feed_forward.router": "block_sparse_moe.gate",
}

EXPERT_PARTS = {
    f"feed_forward.experts.{ours}": f"block_sparse_moe.experts.{EACH}.{theirs}.weight"
    for ours, theirs in {"gate": "w1", "up": "w3", "down": "w2"}.items()
}
"""Files have each expert by itself."""


def model_type_of(config: TransformerConfig) -> str:
    """Return the model type that computes what a model of ours does.

    Raises:
        UserError: none does.
    """
    biases = f"biases on {_biases(config)}"
    if config.experts:
        others = {"expert for all tokens (shared_width)": config.shared_width, "query_key_norm": config.query_key_norm}
        if extra := [*(name for name, there in others.items() if there), *([biases] if _biases(config) else [])]:
            raise UserError(f"no architecture of Hugging Face's fits this model: Mixtral has no {extra[0]}")
        return "mixtral"
    if config.query_key_norm:
        if config.attention_bias == config.attention_output_bias and not config.feed_forward_bias:
            return "qwen3"
        raise UserError(
            f"no architecture of Hugging Face's fits this model: Qwen3, which has query_key_norm, has no {biases}"
        )
    if config.attention_bias == config.attention_output_bias:
        return "llama"
    if config.attention_bias and not config.feed_forward_bias:
        return "qwen2"
    raise UserError(f"no architecture of Hugging Face's fits this model: neither Llama nor Qwen2 has {biases} alone")


def _biases(config: TransformerConfig) -> str:
    where = {
        "queries, keys and values": config.attention_bias,
        "attention's output": config.attention_output_bias,
        "the feed-forward layer": config.feed_forward_bias,
    }
    return " and ".join(name for name, there in where.items() if there)


def settings_of(config: TransformerConfig) -> dict[str, Any]:
    """Return the architecture's part of `config.json`.

    The rotary base stands there twice, as Transformers 5 reads it and as what came before reads it.

    Raises:
        UserError: no architecture fits.
    """
    model_type = model_type_of(config)
    settings = {theirs: getattr(config, ours) for ours, theirs in SETTINGS.items()} | {"head_dim": config.width_of_head}
    special: dict[str, dict[str, Any]] = {
        "llama": {"attention_bias": config.attention_bias, "mlp_bias": config.feed_forward_bias},
        "qwen2": {"use_sliding_window": False},
        "qwen3": {"attention_bias": config.attention_bias, "use_sliding_window": False},
        "mixtral": {
            "num_local_experts": config.experts,
            "num_experts_per_tok": config.active_experts,
            "sliding_window": None,
            "output_router_logits": False,
        },
    }
    return {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        **settings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_theta": config.rotary_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_theta},
        **special[model_type],
    }


def config_of(settings: dict[str, Any], name: str) -> TransformerConfig:
    """Return the model that a `config.json` describes.

    Args:
        settings: its content.
        name: of the file, for messages.

    Raises:
        UserError: it is of another architecture, or asks for what our model doesn't compute.
    """
    model_type = settings.get("model_type")
    if model_type not in CLASSES:
        raise UserError(
            f"{name} describes a model of type {model_type!r}; what can be taken in is {', '.join(CLASSES)}"
        )
    if "auto_map" in settings:
        raise UserError(f"{name} wants code of its own to be run (auto_map), which is never done")
    for key, expected, found in _demands(settings):
        if found != expected:
            raise UserError(f"{name} has {key}={found!r}; our model computes {expected!r} alone")
    try:
        return _config(settings, model_type)
    except KeyError as error:
        raise UserError(f"{name} lacks {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} has a value that can't be used: {error}") from None


def _config(settings: dict[str, Any], model_type: str) -> TransformerConfig:
    heads, width = int(settings["num_attention_heads"]), int(settings["hidden_size"])
    # What a file leaves out has the default of its configuration class in Transformers.
    head_width = settings.get("head_dim") or (128 if model_type == "qwen3" else width // heads)
    attention_bias = bool(settings.get("attention_bias", False))
    vocabulary = int(settings["vocab_size"])
    return TransformerConfig(
        name=model_type,
        vocabulary_size=vocabulary,
        width=width,
        layers=int(settings["num_hidden_layers"]),
        heads=heads,
        key_value_heads=int(settings.get("num_key_value_heads") or heads),
        head_width=None if head_width * heads == width else int(head_width),
        hidden_width=int(settings["intermediate_size"]),
        maximum_length=int(settings["max_position_embeddings"]),
        rotary_theta=float(_rotary(settings).get("rope_theta") or settings.get("rope_theta") or 10000.0),
        norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        tied_embeddings=bool(settings.get("tie_word_embeddings", False)),
        query_key_norm=model_type == "qwen3",
        attention_bias=model_type == "qwen2" or attention_bias,
        attention_output_bias=model_type != "qwen2" and attention_bias,
        feed_forward_bias=model_type == "llama" and bool(settings.get("mlp_bias", False)),
        experts=int(settings.get("num_local_experts", 8)) if model_type == "mixtral" else 0,
        active_experts=int(settings.get("num_experts_per_tok", 2)),
    ).resolve(vocabulary)


def _rotary(settings: dict[str, Any]) -> dict[str, Any]:
    return settings.get("rope_parameters") or settings.get("rope_scaling") or {}


def _demands(settings: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield settings that change what is computed: key, the only value that ours computes, the value."""
    yield "hidden_act", "silu", settings.get("hidden_act", "silu")
    rotary = _rotary(settings)
    yield "rope_scaling", "default", rotary.get("rope_type") or rotary.get("type") or "default"
    yield "rope_interleaved", False, settings.get("rope_interleaved", False)
    yield "partial_rotary_factor", 1.0, settings.get("partial_rotary_factor") or 1.0
    if settings.get("model_type") == "mixtral":
        yield "sliding_window", None, settings.get("sliding_window")
    yield "use_sliding_window", False, settings.get("use_sliding_window") or False
    yield "layer_types", ["full_attention"], sorted(set(settings.get("layer_types") or ["full_attention"]))
    yield "quantization_config", None, settings.get("quantization_config")


def their_name(parameter: str) -> str:
    """Return what Hugging Face's architectures call a parameter of ours, with `EACH` for the number of an expert."""
    if not parameter.startswith("blocks."):
        part, _, kind = parameter.rpartition(".")
        return f"{PARTS[part]}.{kind}"
    _, layer, rest = parameter.split(".", 2)
    if rest in EXPERT_PARTS:
        return f"model.layers.{layer}.{EXPERT_PARTS[rest]}"
    part, _, kind = rest.rpartition(".")
    return f"model.layers.{layer}.{PARTS[part]}.{kind}"


def shapes_of(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of our model, by name; one that is tied comes once."""
    import torch

    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
