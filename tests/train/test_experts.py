"""A mixture of experts computes what Mixtral does, drops nothing, and learns alike however ranks share a batch."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from engine_runs import EXPERTS, SEQUENCES, VOCABULARY, whole_batch
from plain_training import plain_model
from torch.nn.functional import cross_entropy, one_hot, silu, softmax
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.foundation.errors import UserError
from train.memory.sizes import parameter_sizes
from train.model.attention import KeyValueCache
from train.model.experts import Experts, MixtureOfExperts
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(
    width=48, layers=2, heads=4, key_value_heads=2, hidden_width=40, maximum_length=64, tied_embeddings=False,
    experts=6, active_experts=2,
).resolve(96)  # fmt: skip
SHARED = replace(SMALL, active_experts=3, shared_width=56)


def build(config: TransformerConfig) -> Transformer:
    model = Transformer(config)
    initialise_weights(model, config, 0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4.0
    return model


def some_tokens(sequences: int = 3, length: int = 24, seed: int = 1) -> torch.Tensor:
    return torch.randint(96, (sequences, length), generator=torch.Generator().manual_seed(seed))


def mixtral(model: Transformer) -> torch.nn.Module:
    """Return Transformers' model with the same weights."""
    import transformers

    config = model.config
    twin = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            vocab_size=config.vocabulary_size, hidden_size=config.width, intermediate_size=config.hidden_width,
            num_hidden_layers=config.layers, num_attention_heads=config.heads, rms_norm_eps=config.norm_epsilon,
            num_key_value_heads=config.key_value_heads, max_position_embeddings=config.maximum_length,
            num_local_experts=config.experts, num_experts_per_tok=config.active_experts, sliding_window=None,
            rope_parameters={"rope_type": "default", "rope_theta": config.rotary_theta}, tie_word_embeddings=False,
        )
    )  # fmt: skip
    theirs = dict(twin.named_parameters())
    for name, values in as_mixtral(model, lambda parameter: parameter.data).items():
        theirs.pop(name).data.copy_(values)
    assert not theirs, "a parameter has no twin"
    return twin


def as_mixtral(model: Transformer, of) -> dict[str, torch.Tensor]:
    """Return what `of` gives of each parameter, by Mixtral's names and in its shapes."""
    ours = {name: of(parameter) for name, parameter in model.named_parameters()}
    names = {"embedding.": "model.embed_tokens.", "norm.": "model.norm.", "head.": "lm_head."}
    parts = {
        "attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.router": "mlp.gate", "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
    }  # fmt: skip
    found = {names[name[: name.index(".") + 1]] + "weight": each for name, each in ours.items() if "blocks" not in name}
    for layer in range(model.config.layers):
        here, there = f"blocks.{layer}.", f"model.layers.{layer}."
        found |= {f"{there}{theirs}.weight": ours[f"{here}{part}.weight"] for part, theirs in parts.items()}
        gate, up, down = (ours[f"{here}feed_forward.experts.{part}"] for part in ("gate", "up", "down"))
        found |= {f"{there}mlp.experts.gate_up_proj": torch.cat((gate, up), 1), f"{there}mlp.experts.down_proj": down}
    return found


def test_logits_and_gradients_are_those_of_mixtral():
    model = build(replace(SMALL, balance_loss=0.0, router_z_loss=0.0))
    twin = mixtral(model)
    tokens, targets = some_tokens(), some_tokens(seed=2)
    logits, expected = model(tokens), twin(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)

    model(tokens, targets).backward()
    cross_entropy(expected.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    gradients = as_mixtral(model, lambda parameter: parameter.grad)
    for name, parameter in twin.named_parameters():
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert float((gradients[name] - parameter.grad).abs().max()) < 1e-4 * scale, name


@pytest.mark.parametrize("config", [SMALL, SHARED])
@pytest.mark.parametrize("skewed", [False, True])
def test_every_token_goes_through_its_experts_however_many_choose_the_same(config, skewed):
    """The reference takes token by token and expert by expert."""
    layer = build(config).blocks[0].feed_forward
    x = torch.randn(2, 16, config.width, generator=torch.Generator().manual_seed(0))
    if skewed:
        x[..., 0] = 20.0
        layer.router.weight.data[:, 0] = torch.arange(config.experts).float()
    expected = torch.zeros_like(x)
    experts = layer.experts
    for token in [(b, t) for b in range(2) for t in range(16)]:
        probabilities = softmax(layer.router.weight @ x[token], 0)
        chosen = probabilities.argsort(descending=True)[: config.active_experts]
        for expert in chosen:
            hidden = silu(experts.gate[expert] @ x[token]) * (experts.up[expert] @ x[token])
            expected[token] += probabilities[expert] / probabilities[chosen].sum() * (experts.down[expert] @ hidden)
        if layer.shared_expert is not None:
            expected[token] += layer.shared_expert(x[token])
    output, routed = layer(x)
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)
    assert routed.load_E.sum() == 2 * 16 * config.active_experts
    if skewed:
        assert routed.load_E.tolist()[-config.active_experts :] == [32] * config.active_experts


def test_router_losses_are_those_of_the_papers_and_of_each_sequence_alone():
    model = build(SMALL)
    layer: MixtureOfExperts = model.blocks[0].feed_forward
    x = torch.randn(3, 16, SMALL.width, generator=torch.Generator().manual_seed(0))
    _, routed = layer(x)
    scores = x @ layer.router.weight.t()
    probabilities = softmax(scores, -1)
    shares = one_hot(probabilities.topk(2).indices, SMALL.experts).sum(2).float().mean(1) / 2
    torch.testing.assert_close(routed.balance_B, SMALL.experts * (shares * probabilities.mean(1)).sum(1))
    torch.testing.assert_close(routed.z_B, scores.exp().sum(-1).log().square().mean(1))
    for sequence in range(3):
        _, alone = layer(x[sequence : sequence + 1])
        torch.testing.assert_close(alone.balance_B, routed.balance_B[sequence : sequence + 1])


def test_an_indifferent_router_is_in_balance_and_a_stubborn_one_is_not():
    layer: MixtureOfExperts = build(SMALL).requires_grad_(False).blocks[0].feed_forward
    x = torch.randn(1, 64, SMALL.width)
    layer.router.weight.data.zero_()
    _, routed = layer(x)
    assert float(routed.balance_B) == pytest.approx(1.0)
    assert float(routed.z_B) == pytest.approx(math.log(SMALL.experts) ** 2)
    x[..., 0] = 1.0
    layer.router.weight.data[:2, 0] = 30.0
    _, routed = layer(x)
    assert float(routed.balance_B) == pytest.approx(SMALL.experts / 2, rel=1e-4)


def test_the_loss_that_is_told_is_the_texts_alone_and_the_gradient_is_of_all():
    config = replace(SMALL, balance_loss=0.5, router_z_loss=0.25)
    tokens, targets = some_tokens(), some_tokens(seed=2)
    targets[0, 5:] = -1
    model, plain = build(config), build(config)
    loss = model(tokens, targets)
    loss.backward()
    of_text = cross_entropy(plain(tokens).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    assert loss.item() == pytest.approx(of_text.item(), rel=1e-5)
    taken = []
    for block in plain.blocks:
        block.feed_forward.register_forward_hook(lambda *told: taken.append(told[-1][1]))
    plain(tokens)
    counts = (targets >= 0).sum(1)
    (of_text + sum(((0.5 * each.balance_B + 0.25 * each.z_B) * counts).sum() for each in taken)).backward()
    for (name, ours), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, atol=1e-3, rtol=1e-4, msg=name)


def test_what_is_no_loss_has_no_part_of_the_routers_losses():
    """As where answers are compared, by what `output` makes of hidden states."""
    gradients = []
    for weight in (0.0, 5.0):
        model = build(replace(SMALL, balance_loss=weight, router_z_loss=weight))
        hidden = model(some_tokens(), output=lambda hidden_ND, weight_VD: hidden_ND @ weight_VD[:7].t())
        hidden.square().sum().backward()
        gradients.append(model.blocks[0].feed_forward.router.weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_nothing_is_told_of_routers_where_nothing_is_learnt():
    model = build(SMALL).eval()
    with torch.no_grad():
        model(some_tokens(), some_tokens(seed=2))
    assert model.tally is None


@pytest.mark.parametrize("pieces", [[23, 1], [5, 7, 1, 11]])
def test_with_a_cache_the_logits_are_those_of_the_whole_sequence(pieces):
    model, tokens = build(SHARED).eval(), some_tokens()
    with torch.no_grad():
        cache = KeyValueCache(model.config, len(tokens), 24, tokens.device, torch.float32)
        parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-4, rtol=1e-4)


def test_the_router_computes_in_float32_whatever_the_precision():
    layer = build(SMALL).bfloat16().blocks[0].feed_forward
    x = torch.randn(2, 8, SMALL.width).bfloat16()
    expected = x.double() @ layer.router.weight.double().t()
    torch.testing.assert_close(layer.router(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert layer(x)[0].dtype == torch.bfloat16


def test_a_token_meets_as_many_parameters_as_published():
    shape = dict(width=4096, layers=32, heads=32, key_value_heads=8, hidden_width=14336, tied_embeddings=False)
    config = TransformerConfig(**shape, experts=8, active_experts=2).resolve(32000)
    total = parameter_sizes(config).total
    assert round(total / 1e9, 1) == 46.7
    assert round((total - config.idle_parameters) / 1e9, 1) == 12.9


def test_flops_count_what_the_chosen_experts_do():
    """By PyTorch's counter of a dense model with a feed-forward layer as wide as the active experts, and the router."""
    dense = replace(SMALL, experts=0, hidden_width=SHARED.active_experts * SHARED.hidden_width + SHARED.shared_width)
    model = Transformer(dense)
    tokens = some_tokens()
    with FlopCounterMode(display=False) as counter:
        model.blocks[0].feed_forward(model.embedding(tokens))
    feed_forward = 3 * counter.get_total_flops() / tokens.numel()
    assert feed_forward == 6 * 3 * dense.width * dense.hidden_width
    router = 6 * SHARED.layers * SHARED.experts * SHARED.width
    assert SHARED.flops_per_token(24) == dense.flops_per_token(24) + router


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active_experts": 6}, "model.active_experts=6 must be at least 1 and below model.experts=6"),
        ({"active_experts": 0}, "model.active_experts=0 must be at least 1"),
        ({"experts": -1}, "model.experts=-1 must not be below 0"),
        ({"balance_loss": -0.1}, "model.balance_loss=-0.1 must not be below 0"),
        ({"experts": 0, "shared_width": 8}, "model.shared_width=8 needs model.experts"),
        ({"feed_forward_bias": True}, "model.feed_forward_bias has no meaning with model.experts=6"),
    ],
)
def test_shapes_that_make_no_sense_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        replace(SMALL, **change).resolve(96)


@pytest.fixture(scope="module")
def plain() -> dict[int, float]:
    """Losses of plain PyTorch over the whole batch at once."""
    model, optimizer = plain_model(EXPERTS)
    losses = {}
    for step in range(1, 9):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, step / 10)
        tokens, targets = whole_batch(step)
        optimizer.zero_grad()
        logits, routed = logits_and_routers(model, tokens)
        counts = (targets >= 0).sum(1)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        of_routers = sum(((0.01 * each.balance_B + 0.001 * each.z_B) * counts).sum() for each in routed)
        (loss + of_routers / counts.sum()).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses[step] = loss.item()
    return losses


def logits_and_routers(model: Transformer, tokens: torch.Tensor):
    routed = []
    hooks = [
        block.feed_forward.register_forward_hook(lambda *told: routed.append(told[-1][1])) for block in model.blocks
    ]
    logits = model(tokens)
    for hook in hooks:
        hook.remove()
    return logits, routed


@pytest.mark.parametrize(
    ("ranks", "name"),
    [
        *((1, f"experts {kind}") for kind in ("0", "3", "recomputed")),
        *((2, f"experts {kind}") for kind in ("0", "1", "2", "3", "recomputed")),
    ],
)
def test_every_stage_and_world_size_learns_what_plain_pytorch_does(trainings, plain, ranks, name):
    assert trainings.losses(ranks, name) == pytest.approx(plain, abs=2e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_training_is_the_same_bit_for_bit_and_goes_on_at_another_stage(trainings, ranks):
    whole = trainings.losses(ranks, "experts 0")
    later = {step: loss for step, loss in whole.items() if step > 4}
    assert trainings.losses(ranks, "experts 0 to 0") == later
    assert trainings.losses(ranks, "experts 0 to 3") == pytest.approx(later, abs=2e-5)
    for rank in range(ranks):
        file = f"state-{rank:05d}-of-{ranks:05d}.safetensors"
        first, resumed = (trainings.checkpoint(f"{ranks}-experts{kind}", 8) / file for kind in ("", "-resumed"))
        assert first.read_bytes() == resumed.read_bytes()


def test_what_routers_do_is_told_of_all_ranks_together(trainings):
    alone, together = (trainings.by_ranks[ranks]["experts 0"]["figures"]["1"] for ranks in (1, 2))
    assert set(alone) == {"balance_loss", "router_z_loss", "busiest_expert", "idle_experts"}
    assert together == pytest.approx(alone, rel=1e-4)
    assert 0.8 < alone["balance_loss"] < 2.0 and 1.0 <= alone["busiest_expert"] < EXPERTS.experts / 2
    assert alone["idle_experts"] == 0.0 and SEQUENCES * 32 > VOCABULARY


def test_experts_that_no_token_chose_have_gradients_of_nothing():
    """Of those on one of several ranks none may be chosen; ZeRO waits for their gradients all the same."""
    experts = Experts(SMALL)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    rows = torch.zeros(0, SMALL.width, requires_grad=True)
    output = experts(rows, torch.zeros(SMALL.experts, dtype=torch.int32))
    assert output.shape == rows.shape
    output.sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
