"""The model computes what Hugging Face's models compute with the same weights, in every way it can be run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.foundation.configuration import configuration_folder
from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.options import option_names
from train.model.attention import KeyValueCache, attend_within_documents
from train.model.documents import flex_mask, lay_out
from train.model.initialisation import initialise_weights
from train.model.recomputation import recomputation
from train.model.transformer import Transformer, TransformerConfig

VOCABULARY, LENGTH = 96, 24
SMALL = TransformerConfig(
    width=48, layers=3, heads=4, key_value_heads=2, hidden_width=80, maximum_length=64, tied_embeddings=False
)
SHAPES = {
    "llama": SMALL,
    "tied": replace(SMALL, tied_embeddings=True),
    "all heads": replace(SMALL, key_value_heads=4),
    "one key head": replace(SMALL, key_value_heads=1),
    "other theta and epsilon": replace(SMALL, rotary_theta=500000.0, norm_epsilon=1e-6),
    "qwen2": replace(SMALL, attention_bias=True),
    "qwen3": replace(SMALL, query_key_norm=True, head_width=16),
    "all biases": replace(SMALL, attention_bias=True, attention_output_bias=True, feed_forward_bias=True),
}


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    """Build a model whose every parameter matters: norms and biases too are drawn."""
    config = config.resolve(VOCABULARY)
    model = Transformer(config)
    initialise_weights(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        else:
            parameter.data *= 3.0  # logits far from uniform
    return model


def some_tokens(sequences: int = 3, length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))


def hugging_face_twin(model: Transformer) -> tuple[torch.nn.Module, dict[str, str]]:
    """Return a model of Transformers with the same weights, and our names by its names."""
    import transformers

    config = model.config
    settings = dict(
        vocab_size=config.vocabulary_size,
        hidden_size=config.width,
        intermediate_size=config.hidden_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.width_of_head,
        max_position_embeddings=config.maximum_length,
        rms_norm_eps=config.norm_epsilon,
        tie_word_embeddings=config.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rotary_theta},
    )
    if config.query_key_norm:
        twin = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings, attention_bias=False))
    elif config.attention_bias and not config.attention_output_bias:
        twin = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**settings))
    else:
        biases = dict(attention_bias=config.attention_bias, mlp_bias=config.feed_forward_bias)
        twin = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings, **biases))
    parts = {
        "model.embed_tokens": "embedding", "model.norm": "norm", "lm_head": "head", "model.layers": "blocks",
        "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key",
        "self_attn.v_proj": "attention.value", "self_attn.o_proj": "attention.output",
        "self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm",
        "mlp.gate_proj": "feed_forward.gate", "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down",
    }  # fmt: skip
    ours = dict(model.named_parameters())
    names = {}
    for name, parameter in twin.named_parameters():
        mine = name
        for theirs, part in parts.items():
            mine = re.sub(rf"(^|\.){re.escape(theirs)}\.", rf"\g<1>{part}.", mine)
        parameter.data.copy_(ours[mine].data)
        names[name] = mine
    assert set(names.values()) == set(ours), "a parameter has no twin"
    return twin, names


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_are_those_of_hugging_face(shape):
    model, tokens = build(SHAPES[shape]), some_tokens()
    twin, names = hugging_face_twin(model)
    logits, expected = model(tokens), twin(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    targets = some_tokens(seed=2)
    model(tokens, targets).backward()
    cross_entropy(expected.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    ours = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        scale = float(parameter.grad.abs().max())
        difference = float((ours[names[name]].grad - parameter.grad).abs().max())
        assert difference < 1e-4 * max(scale, 1.0), name


@pytest.mark.parametrize("shape", ["llama", "tied", "qwen3", "all biases"])
@pytest.mark.parametrize("pieces", [[LENGTH - 1, 1], [1] * LENGTH, [5, 7, 1, 11]])
def test_with_a_cache_the_logits_are_those_of_the_whole_sequence(shape, pieces):
    model, tokens = build(SHAPES[shape]).eval(), some_tokens()
    with torch.no_grad():
        expected = model(tokens)
        cache = KeyValueCache(model.config, len(tokens), LENGTH, tokens.device, torch.float32)
        parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
    assert cache.length == LENGTH
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=1e-4)


def test_no_position_looks_ahead():
    model, tokens = build(SMALL), some_tokens()
    changed = tokens.clone()
    changed[:, 13:] = (changed[:, 13:] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :13], after[:, :13])
    assert not torch.allclose(before[:, 13], after[:, 13])


DOCUMENTS = [[LENGTH], [5, 6, 20, LENGTH], [LENGTH - 1, LENGTH]]


def test_within_a_document_mask_each_document_is_alone():
    model, tokens = build(SMALL), some_tokens()
    masked = model(tokens, document_ends=DOCUMENTS)
    for row, ends in enumerate(DOCUMENTS):
        for start, stop in zip([0, *ends], ends):
            alone = model(tokens[row : row + 1, start:stop])
            torch.testing.assert_close(masked[row, start:stop], alone[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(masked[1], model(tokens)[1], atol=1e-2)


def test_positions_begin_anew_with_each_document():
    layout = lay_out([[2, 3, 5], [5]], torch.device("cpu"))
    assert layout.positions_BT.tolist() == [[0, 1, 0, 0, 1], [0, 1, 2, 3, 4]]
    assert layout.numbers_BT.tolist() == [[0, 0, 1, 2, 2], [0, 0, 0, 0, 0]]


def dense_mask(ends: list[list[int]]) -> torch.Tensor:
    """(B, 1, T, T) booleans by the definition: in the same document, and not later."""
    document = [[sum(end <= at for end in row) for at in range(row[-1])] for row in ends]
    rows = [[[d[t] == d[s] and s <= t for s in range(len(d))] for t in range(len(d))] for d in document]
    return torch.tensor(rows).unsqueeze(1)


def test_a_call_per_document_computes_what_a_dense_mask_computes(monkeypatch):
    model, tokens, targets = build(SMALL), some_tokens(), some_tokens(seed=2)

    def dense(query, key, value, documents):
        return scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(documents.ends), enable_gqa=True)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(tokens, targets, document_ends=DOCUMENTS).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    per_document = gradients()
    monkeypatch.setattr("train.model.attention.attend_within_documents", dense)
    for one, other in zip(per_document, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_flex_attention_of_gpus_computes_what_a_dense_mask_computes():
    """Its forward pass, without compilation; on a CPU it has no backward pass."""
    ends = [[100, 130, 300], [300], [1, 2, 300]]
    query, key, value = (torch.randn(3, heads, 300, 16) for heads in (4, 2, 2))
    layout = lay_out(ends, torch.device("cpu"))
    flex = flex_attention(query, key, value, block_mask=flex_mask(layout.numbers_BT), enable_gqa=True)
    dense = scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(ends), enable_gqa=True)
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)
    by_document = attend_within_documents(query, key, value, layout)
    torch.testing.assert_close(by_document, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_gradients_are_those_of_the_cpu():
    model, tokens, targets = build(SMALL), some_tokens(), some_tokens(seed=2)
    model(tokens, targets, document_ends=DOCUMENTS).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.cuda()(tokens.cuda(), targets.cuda(), document_ends=DOCUMENTS).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), gradient, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_activation_checkpointing_gives_bitwise_the_same_gradients(documents):
    model, tokens, targets = build(SMALL), some_tokens(), some_tokens(seed=2)
    results = []
    for model.checkpoint_activations in (False, True):
        model.zero_grad()
        loss = model(tokens, targets, document_ends=documents)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_activation_checkpointing_keeps_fewer_activations():
    model, tokens, targets = build(SMALL), some_tokens(), some_tokens(seed=2)
    saved = []
    for model.checkpoint_activations in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(tokens, targets)
        saved.append(sum(sizes))
    assert saved[1] < saved[0] / 2


def test_inputs_of_blocks_that_wait_on_the_host_are_all_that_is_moved():
    model, tokens, targets = build(SMALL), some_tokens(), some_tokens(seed=2)
    model.checkpoint_activations, left = True, []
    for kind in ("blocks", "host"):
        model.recomputation, sizes = recomputation(kind), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(tokens, targets)
        left.append(sum(sizes))
    assert left[0] - left[1] == SMALL.layers * tokens.numel() * SMALL.width


PARAMETERS = {
    # By hand from the shapes: embedding (once where tied) + layers · (attention + feed-forward + norms) + norm.
    "nano": (4096, 4096 * 128 + 2 * (128 * 128 * 3 + 3 * 128 * 352 + 2 * 128) + 128),
    "micro": (4096, 4096 * 256 + 4 * (256 * 256 * 3 + 3 * 256 * 704 + 2 * 256) + 256),
    "small_30m": (32000, 32000 * 384 + 8 * (384 * 384 * 4 + 3 * 384 * 1024 + 2 * 384) + 384),
    "gpt2_124m": (50257, 50304 * 768 + 12 * (768 * 768 * 4 + 3 * 768 * 2048 + 2 * 768) + 768),
    "micro_moe": (4096, 4096 * 256 + 4 * (256 * 256 * 3 + 8 * (3 * 256 * 352 + 256) + 2 * 256) + 256),
    # As published for Mixtral 8x7B, Llama 3.2 1B, 3.1 8B and 3.1 70B.
    "mixtral_8x7b": (32000, 46_702_792_704),
    "llama_1b": (128256, 1_235_814_400),
    "llama_8b": (128256, 8_030_261_248),
    "llama_70b": (128256, 70_553_706_496),
}


@pytest.mark.parametrize("option", option_names("model"))
def test_every_model_option_has_the_parameters_that_it_says(option):
    settings = yaml.safe_load((configuration_folder() / "model" / f"{option}.yaml").read_text())
    assert settings["name"] == option
    vocabulary, parameters = PARAMETERS[option]
    with torch.device("meta"):
        model = Transformer(TransformerConfig(**settings).resolve(vocabulary))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, tied_embeddings=True, key_value_heads=4, head_width=16)])
def test_flops_per_token_are_those_that_pytorch_counts(config):
    """PyTorch counts attention in full, without its causal half; all else must agree exactly.

    Left out on both sides: norms, rotary positions, activations and the softmax, which are no matrix products. The
    loss is the plain one here, because PyTorch doesn't count products that add in place.
    """
    model, sequences = build(config), 2
    tokens, targets = some_tokens(sequences), some_tokens(sequences, seed=2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
    resolved = model.config
    causal_half = 6 * resolved.layers * resolved.heads * resolved.width_of_head * LENGTH
    counted = counter.get_total_flops() / (sequences * LENGTH) - causal_half
    assert resolved.flops_per_token(LENGTH) == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "model.heads=3 does not divide into model.key_value_heads=2 groups"),
        ({"heads": 10, "key_value_heads": 5}, "model.width=48 does not divide by model.heads=10"),
        ({"head_width": 7}, "a head's width is 7; rotary positions need an even one"),
        ({"layers": 0}, "model.layers=0 must be at least 1"),
        ({"vocabulary_size": 95}, "model.vocabulary_size=95 is smaller than the dataset's vocabulary of 96"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        replace(SMALL, **change).resolve(VOCABULARY)


def test_the_vocabulary_is_rounded_up_to_a_multiple_of_64():
    assert [SMALL.resolve(size).vocabulary_size for size in (1, 64, 65, 4096)] == [64, 64, 128, 4096]
    assert replace(SMALL, vocabulary_size=100).resolve(96).vocabulary_size == 100
