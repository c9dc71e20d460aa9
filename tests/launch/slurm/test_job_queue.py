"""Times as SLURM writes them."""

import pytest

from launch.slurm.queue import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1-02:03:04", 93784.0), ("02:03:04", 7384.0), ("03:04", 184.0), ("0:09", 9.0), ("UNLIMITED", None), ("", None)],
)
def test_a_time_left_is_read(text, expected):
    assert seconds(text) == expected
