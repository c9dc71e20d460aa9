"""Reports of parts add up to the same whole, however the parts are divided and in whatever order they come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from data_pipeline.preparation.report import EXAMPLES, Report, excerpt_around, first_difference

EVENTS = some.lists(
    some.tuples(
        some.sampled_from(["repair", "quality"]),
        some.sampled_from(["web", "code"]),
        some.sampled_from(["kept", "changed", "dropped"]),
        some.integers(0, 50),
    ),
    max_size=40,
)


def report_of(events) -> Report:
    report = Report()
    for number, (stage, source, outcome, size) in events:
        counts = report.counts(stage, source)
        counts.taken.add(1, size)
        if outcome == "dropped":
            report.dropped(stage, source, "short", size)
            report.add_example(f"{stage}/short", f"document {number}", "x" * size, None)
        else:
            counts.given.add(1, size)
        if outcome == "changed":
            counts.changed += 1
            counts.count_changes({"case": 2})
    return report


@given(EVENTS, some.integers(1, 5), some.randoms(use_true_random=False))
def test_parts_add_up_in_any_order(events, parts, draw):
    numbered = list(enumerate(events))
    whole = report_of(numbered)
    # Every stage and source is there from the start, as in a flow, so that the order of stages is that of the flow.
    pieces = [report_of(numbered[part::parts]) for part in range(parts)]
    draw.shuffle(pieces)
    total = Report()
    for piece in pieces:
        total.add(Report.from_json(piece.to_json()))
    assert total.stages == whole.stages
    assert total.examples == whole.examples
    assert all(len(examples) <= EXAMPLES for examples in total.examples.values())


def test_an_example_that_would_not_stay_is_not_wanted():
    report = Report()
    keys = [f"document {number}" for number in range(200)]
    for key in keys:
        if report.wants_example("quality/short", key):
            report.add_example("quality/short", key, "text", None)
    everything = Report()
    for key in keys:
        everything.add_example("quality/short", key, "text", None)
    assert report.examples == everything.examples


@given(some.text(), some.text(), some.text())
def test_the_first_difference_is_where_texts_part(same, before, after):
    place = first_difference(same + before, same + after)
    shorter = min(len(same + before), len(same + after))
    assert (same + before)[:place] == (same + after)[:place]
    assert place == shorter or (same + before)[place] != (same + after)[place]


def test_an_excerpt_is_short_and_has_the_place():
    text = "".join(chr(0x4E00 + number) for number in range(5000))
    for place in (0, 10, 2500, 4999):
        excerpt = excerpt_around(text, place)
        assert text[place] in excerpt and len(excerpt) < 400
    assert excerpt_around("short", 3) == "short"
