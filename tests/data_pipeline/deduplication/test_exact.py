import pytest

from data_pipeline.deduplication.exact import text_keys


@pytest.mark.parametrize(
    "same",
    [
        "Caf\u00e9\n  au lait\n\nand tea",
        "Cafe\u0301\r\n  au lait\r\n\r\nand tea",
        "\n\nCaf\u00e9 \t\n  au lait\u00a0\n \nand tea\n\n\n",
    ],
)
def test_what_a_reader_cannot_see_makes_no_difference(same):
    assert text_keys([same]).tobytes() == text_keys(["Café\n  au lait\n\nand tea"]).tobytes()


@pytest.mark.parametrize(
    "other", ["café\n  au lait\n\nand tea", "Café\nau lait\n\nand tea", "Café\n  au lait\nand tea"]
)
def test_what_a_reader_sees_makes_one(other):
    assert text_keys([other]).tobytes() != text_keys(["Café\n  au lait\n\nand tea"]).tobytes()


def test_a_key_is_the_128_bit_hash_of_the_text():
    # xxh3-128 of no bytes with seed 0, from the reference implementation's sanity test.
    assert text_keys(["  \n "]).tobytes().hex() == "99aa06d3014798d86001c324468d497f"
    assert text_keys([]).shape == (0, 16)
