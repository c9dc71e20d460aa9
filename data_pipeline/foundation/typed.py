"""Settings from a file of the user's, typed by a dataclass; unknown ones are refused with the nearest known one."""

from __future__ import annotations

from typing import Any, TypeVar

import omegaconf.errors
from omegaconf import OmegaConf

from data_pipeline.foundation.configuration import known_keys, nearest
from data_pipeline.foundation.errors import UserError

Schema = TypeVar("Schema")


def typed(schema: type[Schema], settings: dict[str, Any], name: str) -> Schema:
    """Return an instance of a dataclass from plain data.

    Args:
        name: of the thing, for messages.

    Raises:
        UserError: an unknown key, a value of the wrong type, or a required key left out.
    """
    # Templates may hold what OmegaConf would take for references to other keys.
    escaped = _escape(settings)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), escaped)
        value = OmegaConf.to_object(merged)
    except omegaconf.errors.ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise UserError(f"{name}: unknown key `{key}`.{nearest(key, known_keys(schema))}") from None
    except omegaconf.errors.MissingMandatoryValue as error:
        raise UserError(f"{name}: `{error.full_key or str(error).split(': ')[-1]}` is required") from None
    except (omegaconf.errors.OmegaConfBaseException, ValueError) as error:
        where = getattr(error, "full_key", None)
        raise UserError(f"{name}: {f'`{where}`: ' if where else ''}{str(error).splitlines()[0]}") from None
    assert isinstance(value, schema)
    return value


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
