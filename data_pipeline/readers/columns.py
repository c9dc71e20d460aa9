"""Texts in the columns of Arrow tables: which column, whether it holds text, and its values as bytes that are safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_pipeline.readers.input import Damaged, Input, Item

if TYPE_CHECKING:
    import pyarrow as pa


def find_column(file: Input, schema: pa.Schema) -> list[str]:
    """Return the path to the text column: one name, or those of the structs that it lies in and its own.

    Raises:
        Damaged: there is no such column, or it doesn't hold text.
    """
    import pyarrow as pa

    name = file.settings.text_field
    path = [name] if name in schema.names else name.split(".")
    if schema.names.count(path[0]) != 1:
        raise Damaged(f"there is no column `{name}`; it has {file.names_of(schema.names)}")
    kind = schema.field(path[0]).type
    for depth, part in enumerate(path[1:], 1):
        fields = {child.name: child.type for child in kind} if pa.types.is_struct(kind) else {}
        if part not in fields:
            within = ".".join(path[:depth])
            raise Damaged(f"there is no column `{name}`; `{within}` holds {file.names_of(list(fields))}")
        kind = fields[part]
    if _plain_kind(kind) is None:
        raise Damaged(f"column `{name}` holds {kind}, not text; it has {file.names_of(schema.names)}")
    return path


def texts(file: Input, column: pa.Array, path: list[str], first: int) -> Iterator[Item]:
    """Yield the document of every row of a column, or why there is none; `first` is the first row's number.

    Raises:
        Damaged: the column's buffers contradict each other.
    """
    for row, value in enumerate(_values(column, path), first):
        where = f", row {row}"
        if value is None:
            yield file.left_out(where, "no_text", f"`{file.settings.text_field}` is null")
        else:
            yield file.encoded(where, value, file.settings.markup)


def _values(column: pa.Array, path: list[str]) -> Iterator[bytes | None]:
    import pyarrow as pa
    import pyarrow.compute as compute

    try:
        # Before anything follows an offset in them: they may point anywhere.
        column.validate()
        if path[1:]:
            column = compute.struct_field(column, path[1:])
        if pa.types.is_dictionary(column.type):
            words = _as_binary(column.dictionary)
            column.validate(full=True)
            for index in column.indices:
                yield None if (at := index.as_py()) is None else words[at].as_py()
            return
        for value in _as_binary(column):
            yield value.as_py()
    except (pa.ArrowException, IndexError) as error:
        raise Damaged(f"its columns are damaged: {error}") from None


def _as_binary(column: pa.Array) -> pa.Array:
    # As bytes, since an array of strings is checked as a whole, and one bad text must not cost the others.
    kind = _plain_kind(column.type)
    column = column if column.type == kind else column.view(kind)
    column.validate(full=True)
    return column


def _plain_kind(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    same = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }
    return same.get(kind, kind if kind in same.values() else None)
