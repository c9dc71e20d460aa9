""".parquet: a document a row of one column. Big files are read in pieces of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from data_pipeline.foundation.locations import open_location
from data_pipeline.readers.columns import find_column, texts
from data_pipeline.readers.input import Damaged, Input, Item

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256
BATCH_BYTES = 1 << 26
PAGE_BUFFER = 1 << 20


def read_parquet(file: Input) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        # Column chunks are read page by page, for a row group may be of any size.
        with (
            open_location(file.piece.location) as raw,
            parquet.ParquetFile(raw, buffer_size=PAGE_BUFFER, pre_buffer=False) as table,
        ):
            path = find_column(file, table.schema_arrow)
            column = ".".join(path)
            number = 1 + sum(table.metadata.row_group(group).num_rows for group in range(file.piece.start))
            for group in range(table.num_row_groups)[file.piece.start : file.piece.stop]:
                rows = _rows_at_once(raw, table.metadata.row_group(group), group, column)
                for batch in table.iter_batches(rows, [group], [column], use_threads=False):
                    yield from texts(file, batch.column(0), path, number)
                    number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"not a Parquet file that can be read: {error}") from None


def _rows_at_once(raw: BinaryIO, metadata: pa.RowGroupMetaData, group: int, column: str) -> int:
    """Return how many rows of a group fit into memory, also where a few bytes stand for many long and equal texts."""
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    longest = metadata.total_byte_size // max(1, metadata.num_rows)
    try:
        with parquet.ParquetFile(raw, buffer_size=PAGE_BUFFER, pre_buffer=False, read_dictionary=[column]) as table:
            first = next(table.iter_batches(1, [group], [column], use_threads=False), None)
    except (pa.ArrowException, OSError):
        # One of the delta encodings, in which a text may say that it begins as the one before does; or damage, which
        # reading will tell.
        return 1
    if first is not None and pa.types.is_dictionary(first.column(0).type):
        longest = max(longest, compute.max(compute.binary_length(first.column(0).dictionary)).as_py() or 0)
    return min(ROWS, max(1, BATCH_BYTES // max(1, longest)))


def row_group_shares(location: str) -> list[float]:
    """Return each row group's share of the file; nothing where it can't be read: reading will tell why."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with open_location(location) as raw, parquet.ParquetFile(raw) as table:
            # Not the columns' own sizes: where they are damaged, asking for them ends the process.
            sizes = [table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups)]
    except (pa.ArrowException, OSError):
        return []
    return [size / sum(sizes) for size in sizes] if min(sizes, default=0) > 0 else []
