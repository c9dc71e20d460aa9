"""Seconds of a step: operations as torch counts them, collectives as textbooks have them, and what hides what."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from launch.plan.communication import exchange_seconds, gather_seconds, reduce_seconds
from launch.plan.hardware import Cluster, DeviceConfig, NetworkConfig
from launch.plan.speed import step_time
from launch.plan.work import Work, work_of
from train.deepspeed_settings import ZeroConfig
from train.memory.layout import Layout
from train.model.transformer import Transformer, TransformerConfig
from train.muon import orthogonalised
from train.optimizer import OptimizerConfig

MODEL = TransformerConfig(vocabulary_size=512, width=64, layers=3, heads=4, key_value_heads=2, hidden_width=160)
DEVICE = DeviceConfig("d", True, {"bf16": 1e14}, 80e9, 1e12, 100e9, 25e9)
NETWORK = NetworkConfig("n", bandwidth=10e9, latency=0.0, efficiency=1.0)


def cluster(nodes: int, devices_per_node: int = 8, network: NetworkConfig = NETWORK) -> Cluster:
    return Cluster(DEVICE, network, nodes, devices_per_node)


def test_matrix_products_are_as_many_as_torch_counts():
    model = Transformer(MODEL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens = torch.randint(0, 512, (2, 33))
    counter = FlopCounterMode(display=False)
    with counter:
        cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counted.items() if "attention" not in str(op))
    assert products == 3 * work_of(MODEL, 32).matrix_flops * 64


def test_attention_is_half_of_what_torch_counts_without_the_causal_mask():
    queries = torch.zeros(1, 4, 64, 16)
    counter = FlopCounterMode(display=False)
    with counter:
        (queries @ queries.transpose(2, 3)) @ queries
    assert work_of(MODEL, 64).attention_flops * 64 == MODEL.layers * counter.get_total_flops() / 2


def test_muons_iterations_are_as_many_as_torch_counts():
    with FlopCounterMode(display=False) as counter:
        for name, parameter in Transformer(MODEL).named_parameters():
            if name.startswith("blocks.") and parameter.dim() == 2:
                orthogonalised(torch.randn(parameter.shape))
    muon = work_of(MODEL, 32, OptimizerConfig("muon"))
    assert muon.orthogonal_flops == counter.get_total_flops() > 0 == work_of(MODEL, 32).orthogonal_flops
    of_update = {stage: step_of(muon, ZeroConfig(stage)) - step_of(work_of(MODEL, 32), ZeroConfig(stage))
                 for stage in (0, 1, 3)}  # fmt: skip
    assert of_update[0] == pytest.approx(8 * of_update[1]) and of_update[3] > of_update[1] > 0


def step_of(work: Work, zero: ZeroConfig) -> float:
    return step_time(work, Layout(8, 1, 32, precision="bf16", zero=zero), cluster(1)).update


def test_a_gather_takes_what_a_ring_sends_over_its_slowest_part():
    assert gather_seconds(cluster(1, 1), 1e9) == 0
    within = Cluster(DEVICE, NETWORK, 1, 4)
    assert gather_seconds(within, 8e9) == pytest.approx(8e9 * 3 / 4 / 100e9, rel=1e-3)
    # Eight ports of 10 GB/s leave a machine: slower than its links of 100 GB/s.
    assert gather_seconds(cluster(4), 8e9) == pytest.approx(8e9 * 31 / 32 / 80e9, rel=1e-3)
    assert reduce_seconds(cluster(4), 8e9) == pytest.approx(2 * gather_seconds(cluster(4), 8e9))


def test_an_exchange_sends_all_but_a_ranks_own_part_and_leaves_a_machine_by_its_own_port():
    free = NetworkConfig("n", bandwidth=10e9, latency=0.0, efficiency=1.0)
    assert exchange_seconds(cluster(2, network=free), 8e9, 4) == pytest.approx(8e9 * 3 / 4 / 100e9, rel=1e-3)
    # Of 16 ranks, 8 are on the other machine: 8/16 of the bytes go through a port of 10 GB/s.
    assert exchange_seconds(cluster(2, network=free), 8e9, 16) == pytest.approx(8e9 * 8 / 16 / 10e9, rel=1e-3)


def test_sharing_sequences_costs_an_exchange_in_each_pass():
    work = work_of(MODEL, 1024)
    whole, shared, again = (
        step_time(work, Layout(8, 8, 1024, precision="bf16", is_gpu=True, **more), cluster(1))
        for more in ({}, {"sequence_ranks": 2}, {"sequence_ranks": 2, "activation_checkpointing": True})
    )
    one = exchange_seconds(cluster(1), 8 * 512 * work.exchanged * 2, 2)
    assert work.exchanged == 3 * (2 * 64 + 2 * 32)
    assert shared.communication - whole.communication == pytest.approx(2 * one)
    assert again.communication - whole.communication == pytest.approx(3 * one)
    assert shared.matrix == pytest.approx(whole.matrix / 2)


def test_splitting_blocks_costs_two_sums_per_block_in_each_pass_and_leaves_the_head_whole():
    whole, part = work_of(MODEL, 1024), work_of(MODEL, 1024, tensor_ranks=2)
    assert part.matrix_flops - part.head_flops == (whole.matrix_flops - whole.head_flops) / 2
    assert (part.attention_flops, part.summed) == (whole.attention_flops / 2, 3 * 2 * 64)
    layouts = (Layout(4, 8, 1024, precision="bf16", is_gpu=True, tensor_ranks=2, activation_checkpointing=again)
               for again in (False, True))  # fmt: skip
    seen, again = (step_time(part, layout, cluster(1)) for layout in layouts)
    one = reduce_seconds(Cluster(DEVICE, NETWORK, 1, 2), 8 * 1024 * part.summed * 2, part.sums)
    of_state = step_time(part, Layout(4, 8, 1024, precision="bf16", is_gpu=True), Cluster(DEVICE, NETWORK, 1, 4))
    assert seen.communication - of_state.communication == pytest.approx(2 * one)
    assert again.communication - of_state.communication == pytest.approx(3 * one)


def test_latency_counts_for_each_collective():
    slow = NetworkConfig("n", bandwidth=10e9, latency=1e-3, efficiency=1.0)
    more = gather_seconds(cluster(4, network=slow), 1e9, messages=11) - gather_seconds(cluster(4, network=slow), 1e9)
    assert more == pytest.approx(10 * 3e-3, rel=0.01)


def seconds(stage: int, nodes: int = 4, accumulation: int = 1, micro: int = 8, **zero: bool):
    layout = Layout(nodes * 8, micro, 1024, accumulation, "bf16", is_gpu=True, zero=ZeroConfig(stage, **zero))
    return step_time(work_of(MODEL, 1024), layout, cluster(nodes))


def test_one_reduction_a_step_is_shared_by_its_micro_batches_at_stage_1_and_not_at_stage_2():
    assert seconds(1, accumulation=8).communication == pytest.approx(seconds(1).communication)
    assert seconds(2, accumulation=8).communication > 4 * seconds(2).communication


def test_overlap_hides_reductions_behind_computing_and_no_more_than_there_is():
    plain, overlapped = seconds(2, micro=64), seconds(2, micro=64, overlap_communication=True)
    assert overlapped.communication < plain.communication
    assert overlapped.communication + overlapped.hidden == pytest.approx(plain.communication + plain.hidden)
    tiny = seconds(3, micro=1, overlap_communication=True)
    computing = tiny.matrix + tiny.attention + tiny.moved + tiny.recomputed
    assert tiny.hidden <= computing * (1 + 1e-9)


def test_inputs_that_wait_on_the_host_cross_its_link_twice():
    blocks, host = (
        step_time(
            work_of(MODEL, 1024),
            Layout(1, 8, 1024, 2, "bf16", activation_checkpointing=True, recomputed=kind, is_gpu=True),
            cluster(1, 1),
        )
        for kind in ("blocks", "host")
    )
    crossing = 2 * 2 * 8 * 1024 * 2 * MODEL.layers * MODEL.width / cluster(1, 1).device.host_bandwidth
    assert host.total - blocks.total == pytest.approx(crossing)


def test_recomputing_takes_a_forward_pass_of_the_blocks():
    plain = Layout(1, 8, 1024, precision="bf16", is_gpu=True)
    again = Layout(1, 8, 1024, precision="bf16", is_gpu=True, activation_checkpointing=True)
    work, one = work_of(MODEL, 1024), cluster(1, 1)
    before, after = step_time(work, plain, one), step_time(work, again, one)
    share = 1 - work.head_flops / work.matrix_flops
    assert after.recomputed > before.matrix / 3 * share
    assert after.total - before.total == pytest.approx(after.recomputed)
