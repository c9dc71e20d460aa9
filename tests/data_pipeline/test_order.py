"""The order of training is a function of numbers, and leaves nothing out and repeats nothing, however a run is shaped.

The main test draws whole runs: sources, mixtures, stages, ramps, world sizes, micro-batches and places to stop; and
follows every token of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from soak import examples

from data_pipeline.curriculum import RampConfig, StageConfig, plan_segments
from data_pipeline.line import Line
from data_pipeline.mixture import Mixture
from data_pipeline.order import Order, rank_share

CELLS = some.lists(some.lists(some.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=4)


@dataclass(frozen=True)
class Run:
    """What decides an order, and how it is consumed."""

    sources: list[list[list[int]]]
    shares: list[list[float]]
    stages: list[StageConfig]
    length: int
    length_ramp: RampConfig
    batch_ramp: RampConfig
    batch: int
    ranks: int
    micro: int
    window: int
    seed: int
    packed: bool

    def order(self) -> Order:
        segments = plan_segments(self.length, self.batch, self.stages, self.length_ramp, self.batch_ramp)
        lines = [
            Line(f"dataset {self.seed} {name}", np.array([sum(cells) for cells in shards]), cells_of(shards), 2)
            for name, shards in enumerate(self.sources)
        ]
        mixtures = [Mixture(shares) for shares in self.shares]
        return Order(f"dataset {self.seed}", lines, segments, mixtures, self.window, packed=self.packed)


def cells_of(shards: list[list[int]]):
    return lambda shard: np.array(shards[shard], np.int64)


@some.composite
def runs(draw) -> Run:
    sources = draw(some.lists(CELLS, min_size=1, max_size=4))
    ranks = draw(some.integers(1, 64))
    micro = draw(some.integers(1, 3))
    batch = ranks * micro * draw(some.integers(1, 3))
    packed = draw(some.booleans())
    stages = draw(
        some.lists(
            some.builds(
                StageConfig,
                some.integers(1, 40 * batch),
                sequence_length=some.none() if packed else some.one_of(some.none(), some.integers(1, 30)),
                sequences=some.one_of(some.none(), some.integers(1, 3).map(lambda times: times * ranks * micro)),
            ),
            max_size=3,
        )
    )
    length = draw(some.integers(1, 30))
    smallest = min([batch, *(stage.sequences for stage in stages if stage.sequences)])
    shortest = min([length, *(stage.sequence_length for stage in stages if stage.sequence_length)])
    rises = some.integers(1, 4)
    share = some.one_of(some.just(0.0), some.floats(0.01, 10))
    return Run(
        sources=sources,
        shares=[
            draw(some.lists(share, min_size=len(sources), max_size=len(sources)).filter(any))
            for _ in range(max(1, len(stages)))
        ],
        stages=stages,
        length=length,
        length_ramp=RampConfig()
        if packed
        else draw(
            some.one_of(
                some.just(RampConfig()),
                some.builds(RampConfig, some.integers(1, shortest), some.integers(1, 900), rises),
            )
        ),
        batch_ramp=draw(
            some.one_of(
                some.just(RampConfig()), some.builds(RampConfig, some.just(ranks * micro), some.integers(1, 900), rises)
            )
        )
        if smallest >= ranks * micro
        else RampConfig(),
        batch=batch,
        ranks=ranks,
        micro=micro,
        window=draw(some.integers(1, 12)),
        seed=draw(some.integers(0, 2**40)),
        packed=packed,
    )


def consume(order: Order, steps: range) -> list[list[tuple[int, int, int]]]:
    """Return (source, position, length) of the sequences of each step."""
    taken = []
    for step in steps:
        numbers = np.array(order.steps.numbers(step))
        ((_, located),) = order.locate(numbers)
        step_taken = list(zip(located.sources.tolist(), located.positions.tolist(), [located.length] * len(numbers)))
        taken.append(step_taken)
    return taken


@settings(max_examples=examples(200))
@given(runs(), some.integers(1, 25), some.data())
def test_however_a_run_is_shaped_stopped_and_divided_nothing_is_left_out_or_repeated(run, steps, data):
    order = run.order()
    taken = consume(order, range(steps))

    # Every position of every line is taken once, from the first on, and an epoch is over before the next begins.
    for source, line in enumerate(order.lines):
        mine = [(position, length) for step in taken for name, position, length in step if name == source]
        covered = [position + at for position, length in mine for at in range(1 if run.packed else length)]
        epochs = [position // line.length for position, _ in mine]
        assert len(set(covered)) == len(covered)
        assert epochs == sorted(epochs)
        assert order.consumed(steps)[source] == len(covered)
        whole_epochs = epochs[-1] if epochs else 0
        assert set(range(whole_epochs * line.length)) <= set(covered)

    # Whoever goes on from a step, after any history, finds what the undisturbed run finds.
    stop = data.draw(some.integers(0, steps - 1))
    assert consume(run.order(), range(stop, steps)) == taken[stop:]

    # The ranks of any world together take exactly the step, each its share in micro-batches.
    for step in range(stop, steps):
        numbers = order.steps.numbers(step)
        assert len(numbers) % (run.ranks * run.micro) == 0
        shares = [rank_share(numbers, rank, run.ranks) for rank in range(run.ranks)]
        micro = [share[at : at + run.micro] for share in shares for at in range(0, len(share), run.micro)]
        assert [number for each in micro for number in each] == list(numbers)
        assert all(len(each) == run.micro for each in micro)


@settings(max_examples=examples(60))
@given(runs(), some.integers(1, 20))
def test_what_is_read_together_and_up_to_where_is_known_from_numbers(run, steps):
    order = run.order()
    farthest = [0] * len(order.lines)
    for step in range(steps):
        assert all(far <= reached for far, reached in zip(farthest, order.reached(step)))
        bounds = {source: (first, last) for source, first, last in order.reach(np.array(order.steps.numbers(step)))}
        taken = consume(order, range(step, step + 1))[0]
        assert bounds.keys() == {source for source, _, _ in taken}
        for source, position, length in taken:
            first, last = bounds[source]
            assert first <= position and position + (0 if run.packed else length) <= last
            farthest[source] = max(farthest[source], position + (1 if run.packed else length))
    slack = [reached - used for reached, used in zip(order.reached(steps), order.consumed(steps))]
    assert all(0 <= each < order.longest_window for each in slack)


@settings(max_examples=examples(60))
@given(runs(), some.integers(1, 30), some.randoms(use_true_random=False))
def test_where_a_sequence_lies_depends_on_its_number_alone(run, steps, draw):
    numbers = np.arange(run.order().steps.numbers(steps).stop)
    expected = [where(run.order(), number) for number in numbers[:40]]
    order = run.order()
    shuffled = draw.sample(range(len(expected)), len(expected))
    assert [where(order, number) for number in shuffled] == [expected[number] for number in shuffled]
    together = {}
    for chosen, located in order.locate(numbers):
        for number, source, position in zip(numbers[chosen], located.sources, located.positions):
            together[int(number)] = (located.length, int(source), int(position))
    assert [together[number] for number in range(len(expected))] == expected


def where(order: Order, number: int) -> tuple[int, int, int]:
    ((_, located),) = order.locate(np.array([number]))
    return located.length, int(located.sources[0]), int(located.positions[0])


def one_source(length: int = 4, window: int = 16, seed: int = 0, shuffle: bool = True, cells=((25,) * 8,) * 4) -> Order:
    shards = [list(each) for each in cells]
    line = Line(f"dataset {seed}", np.array([sum(each) for each in shards]), cells_of(shards), 2, shuffle)
    return Order(f"dataset {seed}", [line], plan_segments(length, 8), [Mixture([1.0])], window, shuffle)


def test_without_shuffling_sequences_follow_each_other_along_the_line():
    assert [where(one_source(shuffle=False), number)[2] for number in range(300)] == list(range(0, 1200, 4))


def test_shuffling_stays_within_a_window_of_the_line():
    positions = np.array([where(one_source(), number)[2] for number in range(192)]).reshape(-1, 16)
    for number, window in enumerate(positions):
        assert sorted(window.tolist()) == list(range(64 * number, 64 * number + 64, 4))
        assert window.tolist() != sorted(window.tolist())


def test_other_seeds_are_other_orders():
    assert len({tuple(where(one_source(seed=seed), number)[2] for number in range(64)) for seed in range(5)}) == 5


def test_a_long_run_is_entered_as_fast_as_a_short_one():
    """Not by the clock: nothing that is made on the way to a late sequence grows with its number."""
    order = one_source(window=64)
    where(order, 10**12)
    assert len(order._permutations) == 1 and len(order.lines[0]._epochs) == 0
    assert where(order, 10**12) == where(one_source(window=64), 10**12)


@pytest.mark.parametrize("step", [0, 1, 10**9])
def test_the_ranks_together_take_exactly_the_steps_sequences(step):
    for ranks in range(1, 65):
        for share in (1, 2, 7):
            numbers = range(step * ranks * share, (step + 1) * ranks * share)
            taken = [number for rank in range(ranks) for number in rank_share(numbers, rank, ranks)]
            assert taken == list(numbers)


def test_the_order_is_the_same_in_every_version():
    """Runs that go on after an update must find their data where they left it: never change these numbers."""
    segments = plan_segments(6, 4, [StageConfig(100), StageConfig(None, sequence_length=8)])
    lines = [Line(f"2f6e1c 7 {name}", np.array([66]), lambda _: np.array([11, 5, 23, 2, 17, 8]), 4) for name in "ab"]
    order = Order("2f6e1c 7", lines, segments, [Mixture([0.7, 0.3]), Mixture([0.5, 0.5])], 4)
    assert [where(order, number) for number in (0, 1, 2, 3, 9, 19, 20, 21, 10_000_003)] == GOLDEN


GOLDEN = [
    *((6, 1, 18), (6, 0, 18), (6, 0, 0), (6, 1, 0), (6, 1, 12)),
    *((6, 1, 24), (8, 1, 42), (8, 0, 94), (8, 0, 40000014)),
]
