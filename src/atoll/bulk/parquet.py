"""Parquet, by way of pyarrow: `pip install 'atoll[parquet]'`.

pyarrow is large (55 MB), so it is an extra. Alternatives: arro3 (12 MB) makes no nested
columns from Python values and cannot read one row group, and fastparquet needs pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_core import PydanticSerializationError, to_json

from atoll.bulk.cells import Cells
from atoll.bulk.reading import Document, Layout, Position, Row
from atoll.errors import ConfigError, InvalidDocument, InvalidOperation
from atoll.schema import CollectionSchema

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 500
_GROUP_ROWS = 20_000
_GROUP_BYTES = 32 << 20


def arrow() -> Any:
    """The module. Raises ConfigError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'atoll[parquet]'") from None
    return pyarrow


class ParquetRows:
    """A Parquet file's rows; its row groups are read piece by piece."""

    def __init__(self, name: str, layout: Layout) -> None:
        self._name = name
        self._layout = layout
        self._cells = Cells(layout.schema)
        pa = arrow()
        try:
            self._file = pa.parquet.ParquetFile(name, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise InvalidOperation(f"{name}: cannot be read as Parquet: {error}") from None
        layout.check_columns(name, self._file.schema_arrow.names)

    @property
    def count(self) -> int:
        """Rows in the file."""
        return int(self._file.metadata.num_rows)

    def close(self) -> None:
        self._file.close()

    def rows(self, start: Position) -> Iterator[Row]:
        place = start.offset
        for given in self._values(start.offset):
            place += 1
            yield self._row(place, given)

    def _values(self, after: int) -> Iterator[dict[str, Any]]:
        metadata = self._file.metadata
        groups = list(range(metadata.num_row_groups))
        while groups and metadata.row_group(groups[0]).num_rows <= after:
            after -= metadata.row_group(groups.pop(0)).num_rows
        columns = [name for name in self._file.schema_arrow.names if name not in self._layout.ignored]
        batches = self._file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, arrow().ArrowException) as error:
                raise InvalidOperation(f"{self._name}: damaged, reading stopped: {error}") from None
            if batch is None:
                return
            yield from islice(batch.to_pylist(), after, None)
            after = max(0, after - batch.num_rows)

    def _row(self, place: int, given: dict[str, Any]) -> Row:
        fields: dict[str, msgspec.Raw] = {}
        size, end = 0, Position(place, place)
        try:
            for column, value in given.items():
                text = self._text(column, value)
                if text is not None:
                    fields[column] = msgspec.Raw(text)
                    size += len(text)
        except InvalidDocument as error:
            return Row(
                place, {}, size, {name: repr(value)[:200] for name, value in given.items()}, end, error
            )
        return Row(place, fields, size, {name: bytes(text).decode() for name, text in fields.items()}, end)

    def _text(self, column: str, value: Any) -> bytes | None:
        types = self._cells.types.get(column)
        if types is not None:
            if value is None and "null" not in types:
                return None  # as an empty cell of CSV: the field is not given
            if isinstance(value, str) and types - {"string", "null"}:
                return self._cells.read(column, value)
            if isinstance(value, list) and "object" in types and "array" not in types:
                value = dict(value)  # a column of Arrow's type map
        try:
            return to_json(value, bytes_mode="base64", inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError) as error:
            raise InvalidDocument(f"{self._layout.schema.name}: {column}: {error}") from None


def write_parquet(path: Path, schema: CollectionSchema, documents: Iterable[Document]) -> None:
    """A column for the key and for each field; what is neither a single value nor a list of them is JSON text."""
    pa = arrow()
    cells = Cells(schema)
    columns = {field: _column_of(pa, cells.types[field], schema, field) for field in schema.fields}
    arrow_schema = pa.schema(
        [("key", pa.string())] + [(field, kind or pa.string()) for field, kind in columns.items()]
    )
    rows: list[dict[str, Any]] = []
    size = 0
    with pa.parquet.ParquetWriter(path, arrow_schema, compression="zstd") as writer:
        for key, text in documents:
            fields: dict[str, msgspec.Raw] = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            row: dict[str, Any] = {"key": key}
            for field, kind in columns.items():
                raw = fields.get(field)
                if raw is None or bytes(raw) == b"null":
                    row[field] = None
                else:
                    row[field] = (
                        msgspec.json.decode(raw) if kind is not None else cells.write(field, bytes(raw))
                    )
            rows.append(row)
            size += len(text)
            if len(rows) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, arrow_schema))
                rows, size = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, arrow_schema))


def _column_of(
    pa: Any, types: frozenset[str], schema: CollectionSchema, field: str
) -> pyarrow.DataType | None:
    """None for what has no type of its own in Parquet."""
    single = types - {"null"}
    if single == {"integer"}:
        return pa.int64()
    if single == {"number"}:
        return pa.float64()
    if single == {"boolean"}:
        return pa.bool_()
    if single == {"string"}:
        return pa.string()
    if single == {"array"} and field in schema.lattices:
        items = schema.json_schema()["properties"][field].get("items", {}).get("type")
        element = {
            "string": pa.string(),
            "integer": pa.int64(),
            "number": pa.float64(),
            "boolean": pa.bool_(),
        }
        return pa.list_(element[items]) if items in element else None
    return None
