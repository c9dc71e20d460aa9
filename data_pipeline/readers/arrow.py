""".arrow: a document a row of one column, in Arrow's file or stream format; what Hugging Face `datasets` saves, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_pipeline.foundation.locations import open_location, split_scheme
from data_pipeline.readers.columns import find_column, texts
from data_pipeline.readers.input import Damaged, Input, Item

if TYPE_CHECKING:
    import pyarrow as pa

FILE_MAGIC = b"ARROW1"


def read_arrow(file: Input) -> Iterator[Item]:
    import pyarrow as pa

    try:
        with _open(file.piece.location) as content:
            path = find_column(file, _batches(content, None)[0])
            schema, batches = _batches(content, path[0])
            number = 1
            for batch in batches:
                yield from texts(file, batch.column(schema.names.index(path[0])), path, number)
                number += len(batch)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise Damaged(f"not an Arrow file that can be read: {error}") from None


def _batches(content: pa.NativeFile, only: str | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema, and the batches with no more than one column of it."""
    import pyarrow as pa

    content.seek(0)
    is_file = content.read(len(FILE_MAGIC)) == FILE_MAGIC

    def opened(options: Any) -> Any:
        content.seek(0)
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(content, options=options)

    schema = opened(pa.ipc.IpcReadOptions()).schema
    if only is None:
        return schema, iter(())
    wanted = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(only)], use_threads=False)
    reader = opened(wanted)
    if is_file:
        return reader.schema, (reader.get_batch(at) for at in range(reader.num_record_batches))
    return reader.schema, iter(reader)


def _open(location: str) -> pa.NativeFile:
    import pyarrow as pa

    scheme, path = split_scheme(location)
    # Mapped, so that a record batch of any size takes only the memory of what is looked at.
    return pa.memory_map(path) if scheme == "file" else pa.PythonFile(open_location(location), "r")
