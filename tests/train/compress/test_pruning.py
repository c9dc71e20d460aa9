"""Masks by brute force; parts of a model that do nothing are the ones left out."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.compress.calibration import Calibration, Gram, walk_blocks
from train.compress.sparsity import keep_largest, keep_pattern, wanda_scores
from train.compress.structure import measure_importance, narrowed, without_layers
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocabulary_size=64, width=32, layers=4, heads=4, key_value_heads=2, hidden_width=48, maximum_length=64
)


def small_model() -> Transformer:
    model = Transformer(CONFIG)
    initialise_weights(model, CONFIG, 0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 3
    return model.eval()


def calibration(sequences: int = 10, length: int = 16) -> Calibration:
    tokens = torch.randint(64, (sequences, length), generator=torch.Generator().manual_seed(5))
    return Calibration(tokens, {})


def numbers(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**31))
def test_two_of_four_keeps_the_pair_with_the_largest_sum(seed):
    scores = numbers(3, 8, seed).abs()
    kept = keep_pattern(scores, 2, 4)
    for row in range(3):
        for start in (0, 4):
            group = scores[row, start : start + 4]
            best = max(combinations(range(4), 2), key=lambda pair: float(group[list(pair)].sum()))
            assert set(kept[row, start : start + 4].nonzero().flatten().tolist()) == set(best)


def test_wanda_compares_within_a_row_weights_times_the_length_of_their_inputs():
    weight, inputs = numbers(5, 12), numbers(50, 12, 1) * torch.arange(1, 13)
    gram = Gram(12)
    gram.add(inputs[:20])
    gram.add(inputs[20:].view(2, 15, 12))
    kept = keep_largest(wanda_scores(weight, gram.norms), 0.5, by_row=True)
    for row in range(5):
        scores = {column: abs(float(weight[row, column])) * float(inputs[:, column].norm()) for column in range(12)}
        largest = sorted(scores, key=scores.__getitem__)[6:]
        assert set(kept[row].nonzero().flatten().tolist()) == set(largest)


def test_magnitude_compares_over_the_whole_matrix():
    weight = numbers(6, 10)
    kept = keep_largest(weight.abs(), 0.3, by_row=False)
    assert int((~kept).sum()) == 18
    assert float(weight[~kept].abs().max()) < float(weight[kept].abs().min())


def test_a_walk_gives_each_layer_the_moments_of_its_inputs_after_earlier_blocks_were_changed():
    model, text = small_model(), calibration()
    grams: dict[tuple[int, str], torch.Tensor] = {}

    def change(number, layers, seen):
        for path, layer in layers.items():
            grams[number, path] = seen[path].values.clone()
            layer.weight.data *= 0.5

    final = walk_blocks(model, text, change, "walk")
    # The same from the changed model: what a block's queries are given depends on the blocks before it alone.
    for number in range(4):
        found = []
        block = model.blocks[number]
        handle = block.attention_norm.register_forward_hook(lambda _, __, output, found=found: found.append(output))
        with torch.no_grad():
            logits = model(text.tokens)
        handle.remove()
        inputs = found[0].flatten(0, 1)
        for path in ("attention.query", "attention.key", "attention.value"):
            torch.testing.assert_close(grams[number, path], inputs.t() @ inputs, atol=1e-2, rtol=1e-4)
    assert len(grams) == 4 * 7
    with torch.no_grad():
        torch.testing.assert_close(final @ model.head.weight.t(), logits, atol=1e-4, rtol=1e-4)


def test_the_block_that_does_nothing_is_left_out_and_nothing_changes():
    model, text = small_model(), calibration()
    for path in ("attention.output", "feed_forward.down"):
        model.get_submodule(f"blocks.2.{path}").weight.data.zero_()
    importance = measure_importance(model, text)
    assert importance.blocks[2] == pytest.approx(0, abs=1e-5)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    config, left, gone = without_layers(CONFIG, parameters, importance, 1)
    assert gone == [2] and config.layers == 3
    smaller = Transformer(config)
    smaller.load_state_dict(left, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(smaller(text.tokens), model(text.tokens), atol=1e-5, rtol=0)


def test_channels_and_heads_that_do_nothing_are_left_out_and_nothing_changes():
    model, text = small_model(), calibration()
    dead = [3, 17, 40]
    for layer in range(4):
        model.get_submodule(f"blocks.{layer}.feed_forward.up").weight.data[dead] = 0
        model.get_submodule(f"blocks.{layer}.attention.value").weight.data[8 * (layer % 2) : 8 * (layer % 2) + 8] = 0
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    config, left = narrowed(CONFIG, parameters, measure_importance(model, text), hidden_width=45, groups=1)
    assert (config.hidden_width, config.heads, config.key_value_heads, config.width_of_head) == (45, 2, 1, 8)
    smaller = Transformer(config)
    smaller.load_state_dict(left, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(smaller(text.tokens), model(text.tokens), atol=1e-4, rtol=0)


def test_block_influence_is_one_minus_the_mean_cosine():
    model, text = small_model(), calibration(sequences=2)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output[0])))
    found = measure_importance(model, text).blocks
    expected = []
    for given_, put_out in seen[:4]:
        cosines = (given_ * put_out).sum(2) / given_.norm(dim=2) / put_out.norm(dim=2)
        expected.append(1 - float(cosines.mean()))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
