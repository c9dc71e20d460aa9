""".parquet: a document a row of one column. Big files are read in pieces of row groups."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.foundation.locations import open_location
from data_pipeline.readers.columns import find_column, texts
from data_pipeline.readers.input import Damaged, Input, Item

ROWS = 256
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
            groups = range(table.num_row_groups)[file.piece.start : file.piece.stop]
            number = 1 + sum(table.metadata.row_group(group).num_rows for group in range(file.piece.start))
            for batch in table.iter_batches(ROWS, groups, [".".join(path)], use_threads=False):
                yield from texts(file, batch.column(0), path, number)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"not a Parquet file that can be read: {error}") from None


def row_group_sizes(location: str) -> list[int]:
    """Return the bytes of each row group as stored, or nothing where the file can't be read: reading will tell why."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with open_location(location) as raw, parquet.ParquetFile(raw) as table:
            groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
            return [sum(group.column(at).total_compressed_size for at in range(group.num_columns)) for group in groups]
    except (pa.ArrowException, OSError):
        return []
