"""Parquet, by way of pyarrow: `pip install 'atoll[parquet]'`.

pyarrow is large (55 MB), so it is an extra. Alternatives: arro3 (12 MB) makes no nested
columns from Python values and cannot read one row group, and fastparquet needs pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

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
            # In nanoseconds, Spark's INT96 would only reach from 1677 to 2262, and wrap around beyond.
            self._file = pa.parquet.ParquetFile(name, pre_buffer=False, coerce_int96_timestamp_unit="us")
            columns = [self._file.schema.column(at) for at in range(self._file.metadata.num_columns)]
            self._old = [one.name for one in columns if one.physical_type == "INT96" and one.path == one.name]
            # Spark's are moments, in UTC; those of Hive and Impala are as a clock shows them.
            self._moments = b"org.apache.spark.version" in (self._file.metadata.metadata or {})
            self._finer = pa.parquet.ParquetFile(name, pre_buffer=False) if self._old else None
        except (OSError, pa.ArrowException) as error:
            raise InvalidOperation(f"{name}: cannot be read as Parquet: {error}") from None
        layout.check_columns(name, self._file.schema_arrow.names)
        arrows = self._file.schema_arrow
        self._binary = {one.name for one in arrows if "binary" in str(one.type)}
        floats = {one.name for one in arrows if pa.types.is_floating(one.type)}
        self._unlike = floats & self._cells.types.keys() | self._cells.formed.keys()
        """Columns whose values may have to change their form."""

    @property
    def count(self) -> int:
        """Rows in the file."""
        return int(self._file.metadata.num_rows)

    def close(self) -> None:
        self._file.close()
        if self._finer is not None:
            self._finer.close()

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
        old = [name for name in self._old if name in columns]
        finer = self._finer and self._finer.iter_batches(_BATCH_ROWS, row_groups=groups, columns=old)
        pa = arrow()
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:
                raise InvalidOperation(f"{self._name}: damaged, reading stopped: {error}") from None
            if batch is None:
                return
            values = [_values_of(pa, column) for column in batch.columns]
            if finer is not None:
                for name, column in zip(old, next(finer).columns, strict=True):
                    read = values[columns.index(name)]
                    _refine(pa, batch.column(name), column, read)
                    if self._moments:
                        read[:] = map(_in_utc, read)
            for row in islice(zip(*values, strict=True), after, None):
                yield dict(zip(columns, row, strict=True))
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
        if column in self._binary:
            value = self._decoded(column, value)
        types = self._cells.types.get(column)
        if types is not None:
            if column in self._unlike:
                value = self._cells.in_form(column, value)
            if value is None and "null" not in types:
                return None  # as an empty cell of CSV: the field is not given
            if isinstance(value, str) and types - {"string", "null"}:
                return self._cells.read(column, value)
            if isinstance(value, list) and "object" in types and "array" not in types:
                value = dict(value)  # a column of Arrow's type map
        try:
            return to_json(value, bytes_mode="base64", inf_nan_mode="constants")
        except (PydanticSerializationError, ValueError) as error:
            problem = value.message if isinstance(value, InvalidDocument) else str(error)
            raise InvalidDocument(f"{self._layout.schema.name}: {column}: {problem}") from None

    def _decoded(self, column: str, value: Any) -> Any:
        """A binary column is bytes, a UUID, or (of Spark, Hive and Impala) text: the field says which."""
        nodes = self._cells.nodes.get(column, frozenset())
        if "bytes" in nodes:
            return value
        match value:
            case bytes() if "uuid" in nodes and len(value) == 16:
                return str(UUID(bytes=value))
            case bytes():
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    raise InvalidDocument(
                        f"{self._layout.schema.name}: {column}: binary, and not UTF-8 text; a field of bytes takes it"
                    ) from None
            case list() | tuple():
                return [self._decoded(column, each) for each in value]
            case dict():
                return {name: self._decoded(column, each) for name, each in value.items()}
        return value


def _values_of(pa: Any, column: pyarrow.Array) -> list[Any]:
    """Its values. One that Python cannot hold exactly is text, where it is a moment, or else an InvalidDocument.

    Python's moments have microseconds, and end with the year 9999.
    """
    try:
        kind = _in_microseconds(pa, column.type)
        values: list[Any] = (column if kind == column.type else column.cast(kind)).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        middle = len(column) // 2
        if middle:
            # `take` copies: a cast of a slice also sees the elements of lists beside it.
            halves = (range(middle), range(middle, len(column)))
            return [value for half in halves for value in _values_of(pa, column.take(pa.array(half)))]
        if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
            return _texts_of(pa, column)
        return [InvalidDocument(f"cannot be read exactly: {error}")]
    return values


def _texts_of(pa: Any, column: pyarrow.Array) -> list[Any]:
    values: list[Any] = column.cast(pa.string()).to_pylist()
    return values


def _in_microseconds(pa: Any, kind: pyarrow.DataType) -> pyarrow.DataType:
    """The same type with microseconds where it has nanoseconds."""
    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz) if kind.unit == "ns" else kind
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_duration(kind):
        return pa.duration("us") if kind.unit == "ns" else kind
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_microseconds(pa, kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([one.with_type(_in_microseconds(pa, one.type)) for one in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_in_microseconds(pa, kind.item_type)))
    return kind


def _in_utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value and f"{value}Z"


def _refine(pa: Any, coarse: pyarrow.Array, fine: pyarrow.Array, values: list[Any]) -> None:
    """Put texts in the place of moments that have more than microseconds."""
    counts = zip(coarse.cast(pa.int64()).to_pylist(), fine.cast(pa.int64()).to_pylist(), strict=True)
    for at, (us, ns) in enumerate(counts):
        if ns is not None and ns % 1000 and ns // 1000 == us:
            (values[at],) = _texts_of(pa, fine.slice(at, 1))


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
    if schema.forms[field].has_serializer() and field not in schema.lattices:
        return None  # what it writes need not be what it reads
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
