"""Every row of the table of DeepSpeed's constraints refuses what it is about, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipeline.foundation.errors import UserError
from train.deepspeed_constraints import CONSTRAINTS
from train.deepspeed_settings import ZeroConfig, check_zero
from train.precision import PrecisionConfig

BREAKS: dict[str, tuple[dict[str, Any], str, dict[str, Any], str]] = {
    "16 bits without ZeRO": ({"stage": 0}, "bf16", {}, "precision=bf16 with zero=0"),
    "offloaded optimizer": ({"stage": 0, "offload_optimizer": True}, "fp32", {}, "needs zero=1, 2 or 3"),
    "offloaded parameters": ({"stage": 2, "offload_parameters": True}, "fp32", {}, "needs zero=3, not 2"),
    "overlap without ZeRO": ({"stage": 0, "overlap_communication": True}, "fp32", {}, "zero.overlap_communication"),
    "odd gather bucket": ({"stage": 1, "gather_bucket": 7}, "fp32", {}, "zero.gather_bucket=7 must be even"),
    "gradients scaled before they are summed": ({"stage": 2}, "bf16", {"prescale_gradients": True}, "prescale"),
    "gradients divided before they are summed": ({"stage": 2}, "bf16", {"gradient_predivide_factor": 2}, "predivide"),
    "torch_autocast": ({"stage": 1}, "fp32", {"torch_autocast": {"enabled": True}}, "use precision=bf16"),
    "checkpoint": ({"stage": 1}, "fp32", {"checkpoint": {"load_universal": True}}, "checkpoints are ours"),
    **{
        f"zero_optimization.{key}": ({"stage": 3}, "fp32", {"zero_optimization": {key: value}}, key)
        for key, value in {
            "save_muon_momentum_buffer_in_memory": True,
            "load_from_fp32_weights": False,
            "zenflow": {},
            "super_offload": True,
            "zero_hpz_partition_size": 2,
            "compute_grad_norm": False,
            "mics_shard_size": 2,
        }.items()
    },
}


def test_every_row_has_a_source_and_a_case_here():
    assert [row.name for row in CONSTRAINTS] == list(BREAKS)
    assert all(row.source for row in CONSTRAINTS)


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_row_is_refused_with_its_message(name):
    zero, precision, passed, said = BREAKS[name]
    with pytest.raises(UserError) as refused:
        check_zero(ZeroConfig(**zero), PrecisionConfig(precision), passed)
    assert said in str(refused.value)


@pytest.mark.parametrize("stage", range(4))
def test_what_is_offered_breaks_no_row(stage):
    precision = "fp32" if stage == 0 else "bf16"
    passed = {"wall_clock_breakdown": True, "zero_optimization": {"sub_group_size": 7}, "prescale_gradients": False}
    zero = ZeroConfig(
        stage, offload_optimizer=stage > 0, offload_parameters=stage == 3, overlap_communication=stage > 0
    )
    check_zero(zero, PrecisionConfig(precision), passed)
