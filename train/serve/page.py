"""The chat page: one answer with its style and script in it, which loads nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

from data_pipeline.foundation.options import option_names
from data_pipeline.foundation.pages import page_style, page_templates

FOLDER = Path(__file__).parent


@functools.cache
def _parts() -> tuple[str, str]:
    return page_style(FOLDER / "chat.css"), (FOLDER / "chat.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy() -> str:
    """Return what the page may do: run its own script, show its own style, ask its own server."""
    style, script = _parts()
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = {
    "Content-Security-Policy": policy(),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def chat_page(model: str, needs_key: bool, has_strategies: bool) -> str:
    """Return the page of a model."""
    style, script = _parts()
    strategies = (
        [name for name in option_names("strategy") if name not in ("direct", "few_shot")] if has_strategies else []
    )
    return page_templates(FOLDER).get_template("chat.html").render(
        model=model, needs_key=needs_key, strategies=strategies, style=style, script=script
    )  # fmt: skip
