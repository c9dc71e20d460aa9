import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deduplication.hashing import BASE, mixed, run_hashes

NUMBERS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


def test_mixing_gives_what_splitmix64_gives():
    # The first outputs of the generator with seed 1234567, as Rosetta Code gives them for its task Splitmix64.
    states = np.array([(1234567 + number * 0x9E3779B97F4A7C15) % 2**64 for number in (1, 2, 3)], np.uint64)
    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(NUMBERS, st.data())
def test_a_runs_hash_is_its_polynomial_wherever_it_stands(numbers, data):
    starts = data.draw(st.lists(st.integers(0, len(numbers) - 1), min_size=1))
    ends = [data.draw(st.integers(start + 1, len(numbers))) for start in starts]
    expected = [
        sum(number * BASE**power for power, number in enumerate(numbers[start:end])) % 2**64
        for start, end in zip(starts, ends)
    ]
    found = run_hashes(np.array(numbers, np.uint64), np.array(starts), np.array(ends))
    assert found.tolist() == mixed(np.array(expected, np.uint64)).tolist()
