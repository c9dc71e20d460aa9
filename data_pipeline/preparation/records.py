"""Small results of tasks, as JSON files. One that can be read says that its task is done.

They are not waited for until they are on disk: what the loss of a machine leaves empty is done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipeline.foundation.files import whole_file


def write_record(path: Path, record: Any) -> None:
    with whole_file(path, durable=False) as file:
        file.write(json.dumps(record, ensure_ascii=False).encode())


def read_record(path: Path) -> Any:
    return json.loads(path.read_bytes())


def has_record(path: Path) -> bool:
    """Return whether a task has left its record, whole."""
    try:
        read_record(path)
    except (OSError, ValueError):
        return False
    return True
