"""Files as rows. A reader can go on from any position that it has stood at."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import zstandard

from atoll.bulk.cells import Cells, no_such_cells
from atoll.bulk.files import Input, skip
from atoll.errors import InvalidDocument, InvalidOperation, MalformedRequest, RequestError, UnknownField
from atoll.schema import CollectionSchema
from atoll.schema.problems import unknown_field

_DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading and decompressing raise."""


class Position(msgspec.Struct, frozen=True):
    """Between two rows."""

    offset: int = 0
    """In bytes of the decompressed file; in a Parquet file, in rows."""
    place: int = 0
    """Lines (of Parquet: rows) that lie before it."""


@dataclass(slots=True)
class Row:
    """One row of a file, good or not."""

    place: int
    """The line where it begins, from 1; in a Parquet file, the row."""
    fields: dict[str, msgspec.Raw]
    """field → JSON text; empty where there is a problem."""
    size_bytes: int
    given: Any
    """As the file has it, for the reject file: text, or cells by column."""
    problem: RequestError | None = None


class Reader(Protocol):
    """A file being read."""

    position: Position
    """After the row that was given out last."""

    def rows(self, start: Position) -> Iterator[Row]:
        """From `start` on. Raises InvalidOperation for what makes the rest unreadable."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns mean what."""

    schema: CollectionSchema
    key: str = "key"
    """The member or column that names the document."""
    ignored: frozenset[str] = frozenset()
    line_bytes: int = 16 << 20
    """No line may be longer."""
    delimiter: str = ","

    def check_columns(self, name: str, columns: Sequence[str]) -> None:
        """Raises InvalidOperation and UnknownField where the columns do not fit the collection."""
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InvalidOperation(f"{name}: there are two columns called {twice[0]!r}; rename one")
        if self.key not in columns:
            raise InvalidOperation(
                f"{name}: no column is called {self.key!r}, and it must name each document; the columns are"
                f" {', '.join(columns) or 'none'}. Select the column with --key"
            )
        for column in columns:
            if column != self.key and column not in self.ignored and column not in self.schema.forms:
                error = unknown_field(column, self.schema.name, self.schema.fields)
                raise UnknownField(
                    f"{name}: {error.message}; --ignore {column} leaves the column out", **error.details
                )


class JsonLines:
    """An object a line."""

    def __init__(self, source: Input, layout: Layout) -> None:
        self.position = Position()
        self._source = source
        self._layout = layout
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def rows(self, start: Position) -> Iterator[Row]:
        go_to(self._source, start.offset)
        offset, place = start.offset, start.place
        for line, size in lines_of(self._source, self._layout.line_bytes):
            place += 1
            offset += size
            self.position = Position(offset, place)
            if line is None:
                yield Row(place, {}, size, None, too_long(size, self._layout))
                continue
            text = line.removeprefix(b"\xef\xbb\xbf") if place == 1 else line
            if text.strip():
                yield self._row(place, text, size)

    def _row(self, place: int, line: bytes, size: int) -> Row:
        try:
            return Row(place, self._decode(line), size, line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = MalformedRequest(f"the line is not one JSON object: {error}")
            return Row(place, {}, size, line, problem)


class CsvRows:
    """A header, then a record a row; a quoted cell may go over several lines."""

    def __init__(self, source: Input, layout: Layout) -> None:
        self.position = Position()
        self._source = source
        self._layout = layout
        self._cells = Cells(layout.schema)
        self._offset = self._place = 0

    def rows(self, start: Position) -> Iterator[Row]:
        csv.field_size_limit(self._layout.line_bytes)
        columns = self._header()
        if start.offset > self._offset:
            go_to(self._source, start.offset, self._offset)
            self._offset, self._place = start.offset, start.place
        self.position = Position(self._offset, self._place)
        records = self._records()
        while True:
            first, before = self._place + 1, self._offset
            try:
                record = next(records, None)
            except csv.Error as error:
                raise InvalidOperation(
                    f"{self._source.name}: line {first}: not CSV: {error}; the following rows cannot be separated"
                ) from None
            if record is None:
                return
            self.position = Position(self._offset, self._place)
            if record:
                yield self._row(first, columns, record, self._offset - before)

    def _header(self) -> list[str]:
        try:
            columns = next(self._records(), None)
        except csv.Error as error:
            raise InvalidOperation(f"{self._source.name}: line 1: not CSV: {error}") from None
        if not columns:
            raise InvalidOperation(f"{self._source.name}: line 1 must name the columns, and is empty")
        columns = [columns[0].removeprefix("\ufeff"), *columns[1:]]
        self._layout.check_columns(self._source.name, columns)
        return columns

    def _records(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._layout.delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        """One after the other as the records need them, so that the offset is always a record's end."""
        for line, size in lines_of(self._source, self._layout.line_bytes):
            self._offset += size
            self._place += 1
            if line is None:
                raise InvalidOperation(
                    f"{self._source.name}: line {self._place}: {too_long(size, self._layout).message}"
                )
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise InvalidOperation(
                    f"{self._source.name}: line {self._place}: not UTF-8 at byte {error.start}; convert the file first"
                ) from None

    def _row(self, place: int, columns: list[str], record: list[str], size: int) -> Row:
        if len(record) != len(columns):
            problem = no_such_cells(self._layout.schema.name, len(record), len(columns))
            return Row(place, {}, size, record, problem)
        given = dict(zip(columns, record, strict=True))
        return row_of_cells(self._layout, self._cells, place, given, size)


def row_of_cells(layout: Layout, cells: Cells, place: int, given: Mapping[str, str], size: int) -> Row:
    fields: dict[str, msgspec.Raw] = {}
    try:
        for column, cell in given.items():
            if column == layout.key:
                fields[column] = msgspec.Raw(msgspec.json.encode(cell))
            elif column not in layout.ignored:
                text = cells.read(column, cell)
                if text is not None:
                    fields[column] = msgspec.Raw(text)
    except InvalidDocument as error:
        return Row(place, {}, size, given, error)
    return Row(place, fields, size, given)


def lines_of(source: Input, most_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """(line, its bytes); None for a line that is longer than `most_bytes`, which is passed over.

    Raises InvalidOperation where the file is damaged or cut off.
    """
    stream = source.stream
    try:
        while line := stream.readline(most_bytes):
            size = len(line)
            if size < most_bytes or line.endswith(b"\n"):
                yield line, size
                continue
            while (chunk := stream.readline(most_bytes)) and not chunk.endswith(b"\n"):
                size += len(chunk)
            yield None, size + len(chunk)
    except _DAMAGE as error:
        raise _damaged(source, error) from error


def go_to(source: Input, offset: int, at: int = 0) -> None:
    """Raises InvalidOperation when the file ends before `offset`."""
    if source.seekable:
        source.stream.seek(offset)
        return
    try:
        reached = skip(source.stream, offset - at)
    except _DAMAGE as error:
        raise _damaged(source, error) from error
    if reached < offset - at:
        raise InvalidOperation(
            f"{source.name}: ends before the position of the previous run; is it the same file? --restart starts over"
        )


def _damaged(source: Input, error: Exception) -> InvalidOperation:
    return InvalidOperation(f"{source.name}: damaged or cut off: {error}")


def too_long(size: int, layout: Layout) -> RequestError:
    return InvalidDocument(f"{layout.schema.name}: the line has {size} bytes, more than {layout.line_bytes}")
