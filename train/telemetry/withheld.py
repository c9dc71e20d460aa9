"""What must not be written down: keys, tokens and passwords, in settings, variables, addresses and texts."""

from __future__ import annotations

import re
from typing import Any

REMOVED = "(removed)"
SECRET_WORDS = {"apikey", "token", "secret", "password", "passwd", "passphrase", "credential", "credentials"}
SECRET_IN_TEXT = re.compile(
    r"(?i)((?:api_?key|token(?!i[sz])|secret|password|passwd|credential)\w*[\"']?\s*[=:]\s*[\"']?)[\w\-./+]{16,}"
)
USER_OF_URL = re.compile(r"([\w+.-]+://)[^/?#\s'\"\],]*@")
QUERY_OF_URL = re.compile(r"(https?://[^\s?#'\"\]]*)[?#][^\s'\"\]]*", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Tell whether a variable or key with this name probably holds a key, a token or a password."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return words[-1] in ("key", "keys") or not SECRET_WORDS.isdisjoint(words)


def text_without_secrets(text: str) -> str:
    """Return a text without what follows a secret's name, and without what URLs may hold."""
    return urls_without_secrets(SECRET_IN_TEXT.sub(rf"\1{REMOVED}", text))


def urls_without_secrets(text: str) -> str:
    """Return a text whose URLs have neither user nor password, nor a query, which may be a signature."""
    return QUERY_OF_URL.sub(r"\1?…", USER_OF_URL.sub(r"\1", text)) if "://" in text else text


def without_secrets(value: Any, name: str = "") -> Any:
    """Return settings as they may be written down.

    Args:
        name: of the key that holds the value.
    """
    if isinstance(value, dict):
        return {str(key): without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return REMOVED if value and looks_secret(name) else urls_without_secrets(value)


def override_without_secrets(override: str) -> str:
    """Return `KEY=VALUE` as it may be written down."""
    key, equals, _ = override.partition("=")
    return f"{key}={REMOVED}" if equals and looks_secret(key) else urls_without_secrets(override)
