"""Prompts from the fields of a record, by Jinja in a sandbox: a template can reach the record and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.errors import UserError

if TYPE_CHECKING:
    import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


@functools.lru_cache(maxsize=256)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def render(template: str, fields: Mapping[str, Any], name: str) -> str:
    """Return a template filled with fields.

    Args:
        name: of the template, for messages.

    Raises:
        UserError: the template can't be read, or asks for what the record doesn't have or the sandbox refuses.
    """
    import jinja2

    try:
        return _compiled(template).render(**fields)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{name}: line {error.lineno} of the template: {error.message}") from None
    except Exception as error:  # whatever an expression of the user's raises
        raise UserError(f"{name}: {error}; the record has {', '.join(map(str, fields)) or 'no fields'}") from None
