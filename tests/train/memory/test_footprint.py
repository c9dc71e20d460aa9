"""A rank's memory as predicted: ZeRO's closed forms, what autograd keeps, and what trainings hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.memory_plan import Case, measured_peaks, predicted
from train.deepspeed_settings import ZeroConfig
from train.memory.activations import activations
from train.memory.footprint import footprint
from train.memory.layout import Layout
from train.memory.sizes import ParameterSizes, parameter_sizes
from train.model.initialisation import initialise_weights
from train.model.transformer import Transformer, TransformerConfig
from train.optimizer import OptimizerConfig

MODEL = TransformerConfig(vocabulary_size=512, width=64, layers=3, heads=4, key_value_heads=2, hidden_width=160)


@pytest.mark.parametrize(
    ("stage", "precision", "gigabytes"), [(0, "fp32", 120.0), (1, "bf16", 31.4), (2, "bf16", 16.6), (3, "bf16", 1.9)]
)
def test_the_state_of_7_5_billion_parameters_on_64_ranks_is_that_of_the_zero_paper(stage, precision, gigabytes):
    """Rajbhandari et al. 2020, figure 1: Adam in mixed precision, K = 12. Stage 0 has as many bytes in float32."""
    sizes = ParameterSizes(((1_171_875,) * 6400,))
    held = footprint(MODEL, Layout(64, 1, 8, precision=precision, zero=ZeroConfig(stage)), sizes).moments["update"]
    assert (held.parameters + held.gradients + held.optimizer) / 1e9 == pytest.approx(gigabytes, abs=0.06)


@pytest.mark.parametrize("ranks", [2, 8, 64, 1024])
def test_stage_3_holds_a_share_of_sixteen_bytes_a_parameter(ranks):
    sizes = ParameterSizes(((1_024_000,) * 1000,))
    held = footprint(MODEL, Layout(ranks, 1, 8, precision="bf16", zero=ZeroConfig(3)), sizes).moments["update"]
    assert held.parameters + held.gradients + held.optimizer == 16 * sizes.total // ranks


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # As published with the weights of Llama 3.1 8B and 70B and of Llama 3.2 1B.
        (dict(width=4096, layers=32, heads=32, hidden_width=14336, tied_embeddings=False), 8_030_261_248),
        (dict(width=8192, layers=80, heads=64, hidden_width=28672, tied_embeddings=False), 70_553_706_496),
        (dict(width=2048, layers=16, heads=32, hidden_width=8192), 1_235_814_400),
    ],
)
def test_known_models_have_as_many_parameters_as_published(model, parameters):
    assert parameter_sizes(TransformerConfig(vocabulary_size=128256, key_value_heads=8, **model)).total == parameters


@given(
    groups=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=12), min_size=1, max_size=3),
    ranks=st.integers(1, 9),
)
def test_what_a_rank_holds_of_whole_parameters_is_what_counting_each_element_finds(groups, ranks):
    held = np.zeros(ranks, dtype=int)
    for group in groups:
        partition = -(-sum(group) // ranks)
        owners = [element // partition for element in range(sum(group))]
        start = 0
        for size in group:
            for rank in set(owners[start : start + size]):
                held[rank] += size
            start += size
    assert ParameterSizes(tuple(map(tuple, groups))).held_whole(ranks) == held.max()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tied_embeddings": False, "key_value_heads": 4},
        {"query_key_norm": True},
        {"experts": 6, "active_experts": 2, "hidden_width": 64},
        {"experts": 6, "active_experts": 3, "hidden_width": 64, "shared_width": 96},
    ],
)
def test_activations_are_what_autograd_keeps(shape, precision):
    config = TransformerConfig(**{**vars(MODEL), **shape})
    layout = Layout(1, micro=2, length=256, precision=precision)
    model = Transformer(config)
    initialise_weights(model, config, 0)
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 512, (2, 257))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    predicted = activations(config, layout)
    assert loss.requires_grad
    assert sum(kept.values()) == pytest.approx(predicted.kept + predicted.head + predicted.scaling, rel=0.04)


def test_checkpointing_keeps_a_blocks_input_and_recomputes_one_block_at_a_time():
    plain, again = (Layout(1, 4, 256, activation_checkpointing=value) for value in (False, True))
    before, after = activations(MODEL, plain), activations(MODEL, again)
    assert after.kept == MODEL.layers * 4 * 256 * MODEL.width * 4
    assert after.passing == before.passing + before.block


def test_recomputing_only_what_is_cheap_keeps_more_than_blocks_and_less_than_all():
    layouts = [
        Layout(1, 4, 256),
        *(Layout(1, 4, 256, activation_checkpointing=True, recomputed=kind) for kind in ("cheap", "blocks")),
    ]
    everything, cheap, blocks = (activations(MODEL, layout) for layout in layouts)
    assert blocks.kept < cheap.kept < everything.kept
    assert cheap.boundary + cheap.passing == blocks.boundary + blocks.passing


def test_inputs_that_wait_on_the_host_leave_a_gpu_but_for_two_and_a_cpu_not_at_all():
    kept = {
        (kind, is_gpu): footprint(
            MODEL, Layout(1, 4, 256, activation_checkpointing=True, recomputed=kind, is_gpu=is_gpu)
        )
        for kind in ("blocks", "host")
        for is_gpu in (True, False)
    }
    one = 4 * 256 * MODEL.width * 4
    on_device = [kept[kind, True].moments["loss"].activations for kind in ("blocks", "host")]
    assert on_device[0] - on_device[1] == (MODEL.layers - 2) * one
    assert kept["host", True].host == MODEL.layers * one
    assert kept["host", False] == kept["blocks", False]


@pytest.mark.parametrize(("kind", "moments"), [("adamw", 2), ("lion", 1), ("muon", 1)])
def test_each_optimizer_is_counted_with_its_moments_and_an_average_with_one_more(kind, moments):
    block = 2 * 64 * (64 + 32) + 3 * 64 * 160
    rest = parameter_sizes(MODEL).total - 3 * block
    others = 1 if kind == "lion" else 2
    for averaged in (False, True):
        sizes = parameter_sizes(MODEL, OptimizerConfig(kind), averaged=averaged)
        elements = 3 * block * (moments + averaged) + rest * (others + averaged)
        assert sizes.in_moments == elements and sizes.state_bytes == 4 * (sizes.total + elements)
        held = footprint(MODEL, Layout(1, 1, 64), sizes).moments["update"]
        assert held.optimizer == 4 * elements


@pytest.mark.parametrize("change", [{"micro": 8}, {"length": 512}, {"accumulation": 2}, {"precision": "fp32"}])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_more_of_anything_never_takes_less(stage, change):
    plain = dict(ranks=4, micro=4, length=256, precision="bf16", zero=ZeroConfig(stage, reduce_bucket=100_000))
    peaks = [footprint(MODEL, Layout(**each)).peak.total for each in (plain, {**plain, **change})]
    assert peaks[0] <= peaks[1]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_moves_the_optimizer_to_the_host_of_a_gpu_and_nowhere_on_a_cpu(stage):
    zero = ZeroConfig(stage, offload_optimizer=True, offload_parameters=stage == 3)
    on_gpu = footprint(MODEL, Layout(4, 1, 64, precision="bf16", is_gpu=True, zero=zero))
    on_cpu = footprint(MODEL, Layout(4, 1, 64, precision="bf16", zero=zero))
    assert on_gpu.peak.optimizer == 0
    assert on_gpu.host >= 12 * parameter_sizes(MODEL).total // 4
    assert on_cpu.host == 0 and on_cpu.peak.optimizer >= 12 * parameter_sizes(MODEL).total // 4


WHOLE = 50_000_000
CASES = [
    *(Case("tied", stage, activation_checkpointing=False, length=128, bucket=WHOLE) for stage in range(4)),
    Case("grouped", 1, activation_checkpointing=True, micro=1, length=128, accumulation=2, bucket=WHOLE),
    Case("grouped", 2, activation_checkpointing=False, micro=1, length=64, accumulation=2, bucket=WHOLE),
    *(Case("grouped", stage, False, micro=1, length=32, bucket=WHOLE, optimizer="muon") for stage in (0, 1, 3)),
    Case("tied", 1, False, micro=1, length=32, bucket=WHOLE, optimizer="lion"),
    Case("grouped", 0, activation_checkpointing=True, length=512, micro=4, bucket=WHOLE, recomputed="cheap"),
    Case("experts", 1, activation_checkpointing=False, bucket=WHOLE),
    Case("grouped", 0, activation_checkpointing=False, length=384, tensor=2),
    Case("experts", 0, activation_checkpointing=False, tensor=2),
]


def test_trainings_hold_as_much_as_predicted():
    """Two processes, all gradients in one bucket.

    At stage 3 what waits for the garbage collector comes and goes. At stage 1 gradients are given back group by group
    as they are flattened, and the plan counts the largest group's copy beside all of them: Muon has more groups. Of two
    ranks that split a mixture one has more of the choices than its share.
    """
    for case, measured in zip(CASES, measured_peaks(CASES, 2)):
        allowed = 0.2 if case.stage == 3 else 0.13 if (case.stage, case.optimizer) == (1, "muon") else 0.03
        allowed = 0.05 if case.tensor > 1 else allowed
        assert predicted(case, 2).peak.total == pytest.approx(measured, rel=allowed), case.name
