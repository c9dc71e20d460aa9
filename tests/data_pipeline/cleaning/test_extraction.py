"""Pages made by hand in the manner of real sites, with labels of what belongs to the text and what surrounds it."""

import json
from pathlib import Path

import pytest

from data_pipeline.cleaning.extraction import Extraction, ExtractionConfig, check_extraction, extract
from data_pipeline.cleaning.stage import Dropped, Kept
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

PAGES = Path(__file__).with_name("pages")
LABELS = json.loads((PAGES / "labels.json").read_text("utf-8"))
TEXTS = {name: extract((PAGES / f"{name}.html").read_text("utf-8")) for name in LABELS}


def applied(html: str, **settings) -> Kept | Dropped:
    return Extraction(ExtractionConfig(**settings)).apply(Document(html, "web", "page", markup="html"))


@pytest.mark.parametrize("name", LABELS)
def test_what_belongs_to_the_text_is_kept(name):
    assert [passage for passage in LABELS[name]["kept"] if passage not in TEXTS[name]] == []


def test_hardly_anything_of_what_surrounds_the_text_is_left():
    unwanted = [(name, passage) for name, label in LABELS.items() for passage in label["removed"]]
    left = [(name, passage) for name, passage in unwanted if passage in TEXTS[name]]
    assert len(left) <= 0.06 * len(unwanted), left


def test_paragraphs_lists_and_rows_stay_apart():
    lines = TEXTS["recipe_en"].split("\n")
    assert lines[0] == "Leek and barley soup" and lines[1] == ""
    assert "  • 3 leeks, white parts only" in lines
    assert "  1. Slice the leeks and soften them in butter for ten minutes." in lines
    assert "Energy\t\t312 kcal" in lines
    assert "首日通行车辆约四千辆，车流总体平稳，没有发生拥堵。\n\n" in TEXTS["news_zh"]


def test_the_title_heads_the_text_once():
    page = "<title>{}</title><body><p>{}</p></body>".format
    assert extract(page("Tides", "They turn twice a day.")) == "Tides\n\nThey turn twice a day."
    assert TEXTS["forum_en"].startswith("Why does my sourdough collapse?\n\n")
    for name, title in (
        ("news_en", "Harbour bridge reopens"),
        ("news_zh", "跨江大桥恢复通车"),
        ("forum_zh", "酸面包为什么"),
    ):
        assert TEXTS[name].count(title) == 1


def test_only_html_is_touched():
    plain = Document("<p>is how a paragraph starts</p>", "web", "page")
    assert Extraction(ExtractionConfig()).apply(plain) == Kept(plain)
    page = applied("<p>is how a paragraph starts</p>")
    assert isinstance(page, Kept) and page.document.text == "is how a paragraph starts"
    assert page.document.markup == "text" and page.changes == {"pages_extracted": 1}


@pytest.mark.parametrize(
    "html",
    ["", "<script>alert('all')</script>", "<nav><ul><li><a href=/>Home</a></li></ul></nav>", "\0", "<!-- <p>text"],
)
def test_a_page_without_text_is_dropped(html):
    assert applied(html) == Dropped("no_text")


N = 100_000
HOSTILE = {
    "blocks in blocks": "<div>" * N + "text",
    "closed blocks in blocks": "<div>" * N + "text" + "</div>" * N,
    "unclosed fonts": "".join(f"<font size={number}>" for number in range(N)) + "text",
    "wrongly closed": "<a><b><i>" * N + "</a></b></i>" * N,
    "links around blocks": "<a>" + "<div>" * N + "</a>" * N,
    "closed in the wrong scope": "<div><marquee></div></marquee>" * N,
    "markup where none is expected": "<svg><title>" + "<div>" * N,
    "markup in a script of a picture": "<svg><script>" + "<div>" * N,
    "tables in tables": "<table><tr><td>" * N + "text",
    "a text far down": "<div>" * 500 + "<a href=/>words</a> and words " * N,
    "a tag of attributes": "<div " + " ".join(f"a{number}=b" for number in range(N)) + ">text</div>",
    "unclosed attribute": "<a href='" * N,
    "lists": "<ul>" * 400 + "<li><a>x</a>" * N,
    "breaks": "<br>" * N,
    "small tags": "<div><span>x</span></div>" * N,
    "less than": "<" * 10 * N,
    "comments": "<!-- <script> " * N,
    "entities": "<!DOCTYPE x [" + "<!ENTITY a '&a;&a;'>" * N + "]><p>&a;&amp;&#x41;" * 9,
    "unending entities": "&aaaaaa" * N,
    "zeros": "\0" * 10 * N,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_neither_crash_nor_hang(name):
    result = applied(HOSTILE[name])
    assert isinstance(result, Kept) or result.reason in ("markup_too_deep", "markup_too_dense", "no_text")


def test_limits_are_reasons():
    assert applied("<p>" + "x" * 100, maximum_characters=50) == Dropped("markup_too_long")
    assert applied("<div>" * 20 + "x", maximum_depth=10) == Dropped("markup_too_deep")
    assert applied("<p a b c d=e f='g h i j k'>x", maximum_attributes=3) == Dropped("markup_too_dense")
    assert isinstance(applied("<p class='a b c d e f g h' id=x>x", maximum_attributes=3), Kept)


def test_depth_is_that_of_elements_that_are_open():
    for html in ("<div>x</div>" * 50, "<p>x" * 50, "<ul><li>x</ul>" * 50, "<br>" * 50, "<!--<div>-->" * 50 + "x"):
        assert isinstance(applied("<p>text</p>" + html, maximum_depth=10), Kept)
    assert isinstance(applied("<p>x</p><script>" + "'<div>'" * 50 + "</script>", maximum_depth=10), Kept)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"cleaning\.extraction\.maximum_depth=0"):
        check_extraction(ExtractionConfig(maximum_depth=0))
