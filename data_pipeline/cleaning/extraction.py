"""HTML to text: the main content of a page, with its paragraphs, lists, tables and code, without what surrounds it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.cleaning.stage import Dropped, Kept, SingleStage
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

MARKUP = "html"


@dataclass
class ExtractionConfig:
    """Settings of extraction.

    The limits are there because the time that a page takes grows with the square of its depth and of a tag's length.

    Args:
        enabled: take the text out of HTML; documents that aren't HTML are never touched.
        maximum_characters: of a page's markup.
        maximum_depth: of elements within elements. Browsers stop at 512, pages made by people stay under 100.
        maximum_attributes: of one tag.
    """

    enabled: bool = True
    maximum_characters: int = 10_000_000
    maximum_depth: int = 512
    maximum_attributes: int = 1_000


class Extraction(SingleStage):
    """Takes the text out of HTML with Resiliparse (Bevendorff et al. 2018), which finds the main content by rules.

    Drops a page as `markup_too_long`, `markup_too_deep` or `markup_too_dense` where a limit is passed, and as `no_text`
    where there is no main content: a page of scripts or of links.
    """

    def __init__(self, config: ExtractionConfig):
        self._config = config

    def apply(self, document: Document) -> Kept | Dropped:
        if document.markup != MARKUP:
            return Kept(document)
        if reason := _passed_limit(document.text, self._config):
            return Dropped(reason)
        text = extract(document.text)
        if not text.strip():
            return Dropped("no_text")
        return Kept(replace(document, text=text, markup="text"), {"pages_extracted": 1})


def check_extraction(config: ExtractionConfig) -> None:
    """Refuse limits that nothing can stay under. Raises UserError."""
    for key in ("maximum_characters", "maximum_depth", "maximum_attributes"):
        if getattr(config, key) < 1:
            raise UserError(f"cleaning.extraction.{key}={getattr(config, key)} must be at least 1")


def extract(html: str) -> str:
    """Return the main text of a page, headed by its title; empty if it has none."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(_LOWERED + html)
    text = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, alt_texts=False, skip_elements=["title"]
    ).strip("\n")
    headline = _headline(tree)
    if not text.strip() or not headline or headline in (" ".join(line.split()) for line in text.split("\n")):
        return text
    return f"{headline}\n\n{text}"


_LOWERED = "<!doctype html><body><div><div><div>"
"""Puts all content three levels deeper, because Resiliparse takes lists in the first levels for menus and spares blocks
of links there. Both are wrong for plain pages: on our labelled pages this brings back 8 % of the passages of the text,
and removes 9 % more of those around it. What a page says of doctype, head and body is ignored within a body."""


def _headline(tree: Any) -> str:
    """Return the longest heading that is a part of the title, because titles also name the site; else the title."""
    title = " ".join((tree.title or "").split())
    headings = (
        " ".join(heading.text.split()) for tag in ("h1", "h2") for heading in tree.body.get_elements_by_tag_name(tag)
    )
    return max((heading for heading in headings if heading and heading in title), key=len, default=title)


_TAG = re.compile(
    r"<(?:!--(?s:.*?)(?:-->|\Z)|(?P<close>/)?(?P<name>[a-z][^\s/>]*+)"
    r"(?P<attributes>(?:[^>=]++|=\s*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z))?)*+)(?:>|\Z))",
    re.IGNORECASE,
)
"""A comment or a tag. Matches wherever it is tried on one, so that no text is looked at twice."""

_QUOTED = re.compile(r"\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)")

_FLAT = frozenset(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr "
    "p li dd dt tr td th tbody thead tfoot option optgroup html head body".split()
)
"""Elements without content, and those that the next of their kind closes."""

_BARRIERS = frozenset("applet button caption marquee math object svg table template".split())
"""Elements that an end tag in them can't reach out of."""

_RAW = {
    name: re.compile(f"</{name}", re.IGNORECASE) for name in "iframe noembed noscript script style textarea xmp".split()
}
"""Elements whose content isn't markup, but in SVG and MathML."""

_MAXIMUM_WORK = 200_000_000
"""Characters times the depth that they are at: Resiliparse reads the text of a block once for each that it is in."""


def _passed_limit(html: str, config: ExtractionConfig) -> str | None:
    """Return which limit a page passes, by counting the elements that are open at every tag."""
    if len(html) > config.maximum_characters:
        return "markup_too_long"
    position, depth, work = 0, 0, 0
    scopes: list[tuple[str, Counter[str]]] = [("", Counter())]
    while tag := _TAG.search(html, position):
        start, stop = tag.span()
        work += (stop - position) * depth
        position = stop
        if work > _MAXIMUM_WORK:
            return "markup_too_deep"
        name = tag["name"]
        if name is None:
            continue
        if stop - start > config.maximum_attributes:
            names = re.findall(r"[^\s/=\"']+", _QUOTED.sub(" ", tag["attributes"]))
            if len(names) > config.maximum_attributes:
                return "markup_too_dense"
        name = name.lower()
        if name in _FLAT:
            continue
        scope, opened = scopes[-1]
        if tag["close"] is None:
            if name in _RAW and scope not in ("svg", "math"):
                end = _RAW[name].search(html, position)
                position = end.start() if end else len(html)
                continue
            depth += 1
            if depth > config.maximum_depth:
                return "markup_too_deep"
            if name in _BARRIERS:
                scopes.append((name, Counter()))
            else:
                opened[name] += 1
        elif name == scope:
            depth -= 1 + opened.total()
            scopes.pop()
        elif opened[name]:
            depth -= 1
            opened[name] -= 1
    return "markup_too_deep" if work + (len(html) - position) * depth > _MAXIMUM_WORK else None
