"""The planner beside what others have published; models are theirs if their parameters are as many as they say."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.published import SHAPES, of_row, predicted_memory, predicted_speed, published_rows, sheets

PUBLISHED_PARAMETERS = {
    # llm-foundry's tables, column NumParams, at 2,048 tokens; Llama's as published with the weights.
    "mpt_1b": 1_315_950_592,
    "mpt_3b": 2_651_837_440,
    "mpt_7b": 6_658_859_008,
    "mpt_13b": 12_853_954_560,
    "mpt_30b": 29_975_214_080,
    "mpt_70b": 64_862_437_376,
    "llama_8b": 8_030_261_248,
    "llama_70b": 70_553_706_496,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_models_have_their_published_parameters(name):
    assert SHAPES[name].parameters(2048) == PUBLISHED_PARAMETERS[name]


def test_no_row_both_calibrates_and_judges():
    rows = published_rows()
    measured = [
        (row.source, row.model, row.length, row.devices, row.micro, row.checkpointing, row.kernels) for row in rows
    ]
    assert len(set(measured)) == len(rows)
    assert {row.use for row in rows} == {"calibrate", "judge"}


def test_half_of_the_judged_rows_are_nearer_than_fifteen_percent():
    judged = [row for row in published_rows() if row.use == "judge"]
    errors = []
    for row in judged:
        device, network = sheets(row.device, row.network)
        errors.append(abs(predicted_speed(row, of_row(row, device), network) / row.speed - 1))
    assert len(judged) >= 10 and statistics.median(errors) < 0.15
    memory = [abs(predicted_memory(row) / row.memory - 1) for row in judged if row.memory]
    assert statistics.median(memory) < 0.15
