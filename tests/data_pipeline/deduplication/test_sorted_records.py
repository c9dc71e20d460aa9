import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.deduplication.sorted_records import ALL_KEYS, KeyRange, RecordFiles, equal_ranges, write_records

KEYS = st.lists(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 5, 2**63, 2**64 - 1]), max_size=8), max_size=5)


@given(KEYS, st.integers(1, 7))
def test_ranges_give_all_records_in_order_and_each_once(tmp_path_factory, keys, count):
    folder, number, expected, paths = tmp_path_factory.mktemp("records"), 0, [], []
    for file, some in enumerate(keys):
        documents = np.arange(number, number + len(some))
        paths.append(folder / str(file))
        write_records(paths[-1], np.array(some, np.uint64), documents)
        expected += zip(some, documents.tolist())
        number += len(some)
    files, found = RecordFiles(paths), []
    for part in equal_ranges(count) if paths else []:
        some_keys, documents = files.read(part)
        assert files.survey(part)[0] == len(some_keys)
        found += zip(some_keys.tolist(), documents.tolist())
    assert found == sorted(expected)
    for key, _ in expected[:2]:
        documents = [document for some in files.documents(key) for document in some.tolist()]
        assert documents == [document for other, document in expected if other == key]


def test_ranges_are_equal():
    ranges = equal_ranges(3)
    assert ranges[0].low == 0 and ranges[-1].high == ALL_KEYS
    assert max(r.high - r.low for r in ranges) - min(r.high - r.low for r in ranges) <= 1


def test_a_survey_names_the_key_of_most_records_to_divide_a_range_around(tmp_path):
    keys = np.array([1, 2, 7, 7, 7, 7, 7, 7, 9], np.uint64)
    write_records(tmp_path / "one", keys, np.arange(9))
    write_records(tmp_path / "other", np.array([3], np.uint64), np.array([9]))
    files = RecordFiles([tmp_path / "one", tmp_path / "other"])
    assert files.survey(KeyRange(0, ALL_KEYS)) == (10, 7)
    assert [files.survey(part)[0] for part in KeyRange(0, ALL_KEYS).around(7)] == [3, 6, 1]
