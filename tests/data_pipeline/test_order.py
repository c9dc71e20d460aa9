"""The order of training is a function, and over an epoch it leaves nothing out and repeats nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from data_pipeline.order import Order, Span, rank_share

BLOCKS = some.lists(some.integers(1, 60), min_size=1, max_size=30)
LENGTHS, WINDOWS, SEEDS, EPOCHS = (
    some.integers(1, 40),
    some.integers(1, 20),
    some.integers(0, 2**40),
    some.integers(0, 3),
)


def make_order(blocks: list[int], length: int, window: int = 8, seed: int = 0, shuffle: bool = True) -> Order:
    assume(sum(blocks) > length)
    return Order("dataset", seed, np.array(blocks), length, window, shuffle)


def positions(spans: list[Span]) -> list[tuple[int, int]]:
    return [(block, at) for block, start, stop in spans for at in range(start, stop)]


def epoch_spans(order: Order, epoch: int) -> list[list[Span]]:
    count = order.sequences_per_epoch
    return [order.spans(sequence) for sequence in range(epoch * count, (epoch + 1) * count)]


@given(BLOCKS, LENGTHS, WINDOWS, SEEDS, EPOCHS)
def test_in_an_epoch_each_token_is_an_input_and_a_target_at_most_once(blocks, length, window, seed, epoch):
    order = make_order(blocks, length, window, seed)
    rows = [positions(spans) for spans in epoch_spans(order, epoch)]
    assert all(len(row) == length + 1 for row in rows)
    inputs = [token for row in rows for token in row[:-1]]
    targets = [token for row in rows for token in row[1:]]
    assert len(set(inputs)) == len(inputs) == len(set(targets)) == len(targets)
    # Left out as targets are the first token of the line and a tail shorter than a sequence, nothing else.
    left_out = sum(blocks) - len(targets)
    assert 1 <= left_out <= length
    known = {(block, at) for block, size in enumerate(blocks) for at in range(size)}
    assert set(inputs) | set(targets) <= known


@given(BLOCKS, LENGTHS, WINDOWS, SEEDS, EPOCHS)
def test_a_sequence_reads_on_through_whole_blocks(blocks, length, window, seed, epoch):
    order = make_order(blocks, length, window, seed)
    for spans in epoch_spans(order, epoch):
        assert all(span.start < span.stop for span in spans)
        assert all(span.start == 0 for span in spans[1:])
        assert all(span.stop == blocks[span.block] for span in spans[:-1])


@given(BLOCKS, LENGTHS, WINDOWS, SEEDS, some.randoms(use_true_random=False))
def test_the_spans_depend_on_nothing_but_the_number(blocks, length, window, seed, draw):
    order = make_order(blocks, length, window, seed)
    numbers = list(range(min(3 * order.sequences_per_epoch, 60)))
    expected = {number: order.spans(number) for number in numbers}
    draw.shuffle(numbers)
    assert {number: order.spans(number) for number in numbers} == expected
    fresh = make_order(blocks, length, window, seed)
    assert {number: fresh.spans(number) for number in numbers} == expected
    assert all(make_order(blocks, length, window, seed).spans(number) == expected[number] for number in numbers[:5])


@given(BLOCKS, LENGTHS, WINDOWS, SEEDS)
def test_without_shuffling_sequences_follow_each_other_as_stored(blocks, length, window, seed):
    order = make_order(blocks, length, window, seed, shuffle=False)
    line = [(block, at) for block, size in enumerate(blocks) for at in range(size)]
    for number, spans in enumerate(epoch_spans(order, 0)):
        assert positions(spans) == line[number * length : (number + 1) * length + 1]
    assert epoch_spans(order, 0) == epoch_spans(order, 1)


@given(some.integers(1, 20), some.integers(1, 30), SEEDS, EPOCHS)
def test_shuffling_stays_within_a_window_of_the_line(window, length, seed, epoch):
    blocks = [97] * 20
    order = make_order(blocks, length, window, seed)
    in_line_order = make_order(blocks, length, 1, seed)  # a window of one permutes nothing but the blocks
    shuffled, line = epoch_spans(order, epoch), epoch_spans(in_line_order, epoch)
    for first in range(0, len(line), window):
        assert sorted(shuffled[first : first + window]) == sorted(line[first : first + window])


def test_other_seeds_datasets_and_epochs_are_other_orders():
    blocks = np.full(100, 50)

    def epoch(fingerprint: str, seed: int, number: int) -> tuple:
        return tuple(map(tuple, epoch_spans(Order(fingerprint, seed, blocks, 16, 32), number)))

    orders = {epoch(name, seed, number) for name in "ab" for seed in (0, 1) for number in (0, 1)}
    assert len(orders) == 8


def test_far_apart_text_and_windows_are_mixed():
    order = make_order([50] * 100, 16, 32)
    first_blocks = [spans[0].block for spans in epoch_spans(order, 0)]
    line = [spans[0].block for spans in epoch_spans(make_order([50] * 100, 16, 1), 0)]
    assert line != sorted(line), "blocks are not permuted"
    assert first_blocks != line, "sequences are not permuted within their windows"


def test_the_order_is_the_same_in_every_version():
    """Runs that go on after an update must find their data where they left it: never change these numbers."""
    order = Order("2f6e1c", 7, np.array([11, 5, 23, 2, 17, 8]), 6, 4)
    assert order.sequences_per_epoch == 10
    assert order.spans(0) == [Span(4, 7, 14)]
    assert order.spans(1) == [Span(4, 1, 8)]
    assert order.spans(9) == [Span(2, 13, 20)]
    assert order.spans(10) == [Span(3, 0, 2), Span(2, 0, 5)]
    assert order.spans(25) == [Span(2, 19, 23), Span(1, 0, 3)]
    assert order.spans(10_000_003) == [Span(2, 0, 7)]


def test_less_than_one_sequence_is_refused():
    with pytest.raises(ValueError, match="16 tokens are less than one sequence of 16"):
        Order("dataset", 0, np.array([10, 6]), 16)
    assert Order("dataset", 0, np.array([10, 7]), 16).sequences_per_epoch == 1


@pytest.mark.parametrize("step", [0, 1, 10**9])
def test_the_ranks_together_take_exactly_the_steps_sequences(step):
    for ranks in range(1, 65):
        for share in (1, 2, 7):
            batch = ranks * share
            taken = [number for rank in range(ranks) for number in rank_share(step, batch, rank, ranks)]
            assert taken == list(range(step * batch, (step + 1) * batch))
