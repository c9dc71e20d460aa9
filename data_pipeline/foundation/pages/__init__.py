"""Pages that open offline, load nothing and run nothing but what is in them: what all of them look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_style(more: Path) -> str:
    """Return the style of all pages, and what a page adds to it from a file of its own."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "page.css", more))


def page_templates(folder: Path) -> Environment:
    """Return the templates of a folder; whatever is put into them is text and can't become markup.

    They extend `foundation/page.html`, which is around all pages.
    """
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

    around = PrefixLoader({"foundation": FileSystemLoader(Path(__file__).parent)})
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), around]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
