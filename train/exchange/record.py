"""`headrace.json`, which an exported folder carries: lineage, figures, proof, and the hash of every file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from data_pipeline.foundation.files import file_hash

RECORD = "headrace.json"


def verify_export(folder: Path) -> list[str]:
    """Return what is wrong with an exported folder, each line naming a file; nothing if every byte is as written."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["bytes"], entry["xxh3_128"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / RECORD} is damaged: {error}"]
    problems = []
    for name, (size, digest) in sorted(expected.items()):
        path = folder / name
        if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
            problems.append(f"{folder / RECORD} names {name!r}, which can't be a file of an export")
        elif not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {size}")
        elif file_hash(path) != digest:
            problems.append(f"{path} is damaged: its checksum is not that of {RECORD}")
    return problems
