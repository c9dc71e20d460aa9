"""A source's line holds each of its tokens once an epoch, in an order that far-apart text comes together in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.line import Line
from data_pipeline.permutation import permutation

SHARDS = some.lists(some.lists(some.integers(0, 20), min_size=1, max_size=6), min_size=1, max_size=7).filter(
    lambda shards: sum(map(sum, shards)) > 0
)


def make_line(shards: list[list[int]], together: int = 3, shuffle: bool = True, identity: str = "dataset 0") -> Line:
    lengths = np.array([sum(cells) for cells in shards], np.int64)
    return Line(identity, lengths, lambda shard: np.array(shards[shard], np.int64), together, shuffle)


def places(line: Line, positions) -> list[tuple[int, int, int]]:
    found = line.locate(np.asarray(positions, np.int64))
    return list(zip(found.shards.tolist(), found.cells.tolist(), found.offsets.tolist()))


def all_places(shards: list[list[int]]) -> list[tuple[int, int, int]]:
    return [(s, c, at) for s, cells in enumerate(shards) for c, length in enumerate(cells) for at in range(length)]


@given(SHARDS, some.integers(1, 9), some.integers(0, 3))
def test_an_epoch_has_every_token_once(shards, together, epoch):
    line = make_line(shards, together)
    found = places(line, np.arange(epoch * line.length, (epoch + 1) * line.length))
    assert sorted(found) == all_places(shards)


@given(SHARDS, some.integers(1, 9), some.randoms(use_true_random=False))
def test_a_place_depends_on_its_position_alone(shards, together, draw):
    line = make_line(shards, together)
    positions = list(range(3 * line.length))
    expected = places(line, positions)
    draw.shuffle(positions)
    fresh = make_line(shards, together)
    assert places(fresh, positions) == [expected[position] for position in positions]
    assert [places(make_line(shards, together), [at])[0] for at in positions[:5]] == [
        expected[at] for at in positions[:5]
    ]


@given(SHARDS, some.integers(1, 9))
def test_cells_are_read_from_their_beginning_to_their_end(shards, together):
    line = make_line(shards, together)
    located = line.locate(np.arange(line.length))
    runs = np.split(np.arange(line.length), np.flatnonzero(located.left == 1)[:-1] + 1)
    for run in runs:
        assert len({(located.shards[at], located.cells[at]) for at in run}) == 1
        assert located.offsets[run].tolist() == list(range(shards[located.shards[run[0]]][located.cells[run[0]]]))


@given(SHARDS)
def test_without_shuffling_it_is_the_storage_order_in_every_epoch(shards):
    line = make_line(shards, shuffle=False)
    assert places(line, np.arange(2 * line.length)) == 2 * all_places(shards)


def test_a_few_shards_at_a_time_are_read():
    line = make_line([[5, 5, 5, 5]] * 12, together=3)
    shards = line.locate(np.arange(line.length)).shards.reshape(4, -1)
    assert [len(set(window.tolist())) for window in shards] == [3, 3, 3, 3]
    assert sorted(np.concatenate([np.unique(window) for window in shards]).tolist()) == list(range(12))
    # Within the window the cells of its shards are mixed, not laid one shard behind the other.
    assert max(np.count_nonzero(np.diff(window)) for window in shards) > 3


@given(SHARDS, some.integers(1, 9), some.integers(0, 200), some.integers(0, 100))
def test_the_shards_of_a_stretch_and_of_what_comes_behind_are_known(shards, together, first, more):
    line = make_line(shards, together)
    # In each epoch every shard is in one window; two that follow each other never have a position in common.
    laid = []
    for epoch in range((first + more) // line.length + 2):
        found = line.locate(np.arange(epoch * line.length, (epoch + 1) * line.length)).shards.tolist()
        while found:
            (window,) = [set(each.tolist()) for each in line._epoch(epoch).shards if found[0] in each]
            laid.append((len([shard for shard in found if shard in window]), window))
            found = [shard for shard in found if shard not in window]
    ends = np.cumsum([length for length, _ in laid]).tolist()
    begin, end = (next(at for at, stop in enumerate(ends) if stop > position) for position in (first, first + more))
    windows = [set(window.tolist()) for window in line.windows(first, first + more)]
    assert windows == [window for _, window in laid[begin : end + 2]]


def test_two_windows_are_needed_at_once_or_as_many_as_are_touched():
    line = make_line([[5, 5, 5, 5]] * 12, together=3)  # windows of 60
    assert [line.shards_at_once(positions) for positions in (1, 59, 60, 61, 120, 121, 10**6)] == [6, 6, 6, 9, 9, 12, 12]


def test_other_identities_and_epochs_are_other_orders():
    shards = [[4] * 10] * 10
    lines = [make_line(shards, identity=identity) for identity in ("a 0", "a 1", "b 0")]
    orders = {tuple(places(line, np.arange(400) + 400 * epoch)) for line in lines for epoch in (0, 1)}
    assert len(orders) == 6


def test_permutations_are_the_same_in_every_version():
    """Runs that go on after an update must find their data where they left it: never change these numbers."""
    assert permutation(10, "2f6e1c 7", "shards", 0).tolist() == [8, 7, 3, 6, 1, 0, 4, 2, 5, 9]
    assert permutation(10, "2f6e1c 7", "shards", 1).tolist() == [6, 0, 1, 5, 3, 2, 9, 8, 4, 7]
    assert permutation(1, "anything").tolist() == [0]


@given(some.integers(1, 300), some.text(max_size=5))
def test_a_permutation_has_every_number_once(count, name):
    assert sorted(permutation(count, name).tolist()) == list(range(count))
