"""Files as rows, and rows as documents. A reader can go on from the end of any row."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import msgspec
import zstandard

from atoll.bulk.cells import Cells
from atoll.bulk.files import Input, skip
from atoll.errors import (
    InvalidDocument,
    InvalidKey,
    InvalidOperation,
    MalformedRequest,
    RequestError,
    UnknownField,
)
from atoll.schema import CollectionSchema
from atoll.schema.limits import check_members
from atoll.schema.problems import unknown_field

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_DAMAGE = (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError)
"""What reading and decompressing raise."""


_DELIMITERS = ";\t|,"
_QUOTE = re.compile(r'\\[\\"]|"')
_ESCAPED = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.?)", re.DOTALL)
"""In the text format of `COPY`."""
_OCTAL = frozenset("01234567")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NONE: frozenset[str] = frozenset()
Document = tuple[str, bytes]
"""(key, canonical JSON text)"""


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
    end: Position
    """Where reading goes on after it."""
    problem: RequestError | None = None


Reader = Callable[[Position], Iterator[Row]]
"""The rows of a file after a position. Raises InvalidOperation for what makes the rest unreadable."""


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
    backslash: bool = False
    """In quoted cells of CSV, quotes and backslashes come after a backslash."""

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
                    f"{name}: {error.message}; --ignore {quote(column)} leaves the column out",
                    **error.details,
                )


def json_rows(source: Input, layout: Layout, start: Position) -> Iterator[Row]:
    """An object a line."""
    go_to(source, start.offset)
    cells = Cells(layout.schema)
    offset, place = start.offset, start.place
    for line, size in lines_of(source, layout.line_bytes):
        place += 1
        offset += size
        end = Position(offset, place)
        if line is None:
            yield Row(place, {}, size, None, end, too_long(size, layout))
            continue
        text = line.removeprefix(b"\xef\xbb\xbf") if place == 1 else line
        if not text.strip():
            continue
        try:
            fields = _object(text)
            check_members(text, fields)
            for field in cells.unlike:
                if (raw := fields.get(field)) is not None:
                    value = _decode(raw)
                    if (changed := cells.in_form(field, value)) is not value:
                        check_members(bytes(raw), value)
                        fields[field] = msgspec.Raw(_encode(changed))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = MalformedRequest(f"the line is not one JSON object: {error}")
            yield Row(place, {}, size, text, end, problem)
        except MalformedRequest as error:
            yield Row(place, {}, size, text, end, error)
        else:
            yield Row(place, fields, size, text, end)


def csv_rows(source: Input, layout: Layout, start: Position) -> Iterator[Row]:
    """A header, then a record a row; a quoted cell may go over several lines."""
    return _CsvRows(source, layout).rows(start)


class _CsvRows:
    def __init__(self, source: Input, layout: Layout) -> None:
        self._source = source
        self._layout = layout
        self._cells = Cells(layout.schema)
        self._offset = self._place = 0
        self._text: list[str] = []
        """The lines of the record that is being read."""
        self._doubled = False
        """Two quotes follow one another in them."""
        self._quoted = False
        """Whether the last line ended within quotes; known where backslashes escape them."""

    def rows(self, start: Position) -> Iterator[Row]:
        csv.field_size_limit(self._layout.line_bytes)
        columns = self._header()
        if start.offset > self._offset:
            go_to(self._source, start.offset, self._offset)
            self._offset, self._place = start.offset, start.place
        records = self._records()
        while True:
            first, before = self._place + 1, self._offset
            self._text.clear()
            self._doubled = False
            try:
                record = next(records, None)
            except csv.Error as error:
                hint = "; if a backslash escapes its quotes, as Spark writes them, give --backslash"
                raise InvalidOperation(
                    f"{self._source.name}: line {first}: not CSV: {_said(error)};"
                    " the following rows cannot be separated" + (hint if '\\"' in "".join(self._text) else "")
                ) from None
            if record is None:
                return
            if record:
                yield self._row(first, columns, record, self._offset - before)

    def _header(self) -> list[str]:
        try:
            columns = next(self._records(), None)
        except csv.Error as error:
            raise InvalidOperation(f"{self._source.name}: line 1: not CSV: {_said(error)}") from None
        if not columns:
            raise InvalidOperation(f"{self._source.name}: line 1 must name the columns, and is empty")
        if self._layout.key not in columns:
            for other in _DELIMITERS:
                if other != self._layout.delimiter and self._layout.key in columns[0].split(other):
                    raise InvalidOperation(
                        f"{self._source.name}: the columns are separated by {other!r}; give --delimiter {other!r}"
                    )
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
                text = line.decode()
            except UnicodeDecodeError as error:
                raise InvalidOperation(
                    f"{self._source.name}: line {self._place}: not UTF-8 at byte {error.start}; convert the file first"
                ) from None
            if self._place == 1:
                text = text.removeprefix("\ufeff")  # a quote after it would not begin a quoted cell
            if self._layout.backslash:
                text = _QUOTE.sub(self._doubling, text)
            self._text.append(text)
            self._doubled = self._doubled or '""' in text
            yield text

    def _doubling(self, found: re.Match[str]) -> str:
        if found[0] == '"':
            self._quoted = not self._quoted
        return found[0] if found[0] == '"' or not self._quoted else '""' if found[0] == '\\"' else "\\"

    def _row(self, place: int, columns: list[str], record: list[Any], size: int) -> Row:
        end, layout = Position(self._offset, self._place), self._layout
        if len(record) != len(columns):
            problem = InvalidDocument(
                f"{layout.schema.name}: the row has {len(record)} cells, the header {len(columns)}"
            )
            return Row(place, {}, size, record, end, problem)
        given = dict(zip(columns, record, strict=True))
        empty = self._quoted_empty(columns, given) if self._doubled else _NONE
        fields: dict[str, msgspec.Raw] = {}
        try:
            for column, cell in given.items():
                if column == layout.key:
                    fields[column] = msgspec.Raw(_encode(cell))
                elif column not in layout.ignored:
                    text = b'""' if column in empty else self._text_of(column, cell)
                    if text is not None:
                        fields[column] = msgspec.Raw(text)
        except InvalidDocument as error:
            return Row(place, {}, size, given, end, error)
        return Row(place, fields, size, given, end)

    def _text_of(self, column: str, cell: Any) -> bytes | None:
        return self._cells.read(column, cell)

    def _quoted_empty(self, columns: list[str], given: dict[str, str]) -> frozenset[str]:
        """The columns that hold `""`: the empty string, where an empty cell is null. `csv` reads both alike."""
        optional = [column for column in self._cells.optional_texts if given.get(column) == ""]
        if not optional:
            return _NONE
        delimiter = re.escape(self._layout.delimiter)
        written = re.findall(rf'(?:^|{delimiter})("(?:[^"]|"")*"|[^{delimiter}\r\n]*)', "".join(self._text))
        if len(written) != len(columns):
            return _NONE
        found = dict(zip(columns, written, strict=True))
        return frozenset(column for column in optional if found[column] == '""')


def _said(error: csv.Error) -> str:
    text = str(error)
    return "a carriage return stands in a cell without quotes" if text.startswith("new-line") else text


def copied_rows(source: Input, layout: Layout, start: Position) -> Iterator[Row]:
    """The text format of PostgreSQL's `COPY` with a header: cells between tabs, a backslash escapes, `\\N` is null."""
    return _CopiedRows(source, layout).rows(start)


class _CopiedRows(_CsvRows):
    def _records(self) -> Iterator[list[Any]]:
        for line in self._lines():
            yield [
                None if cell == "\\N" else _ESCAPED.sub(_unescaped, cell)
                for cell in line.rstrip("\r\n").split("\t")
            ]

    def _text_of(self, column: str, cell: Any) -> bytes | None:
        types = self._cells.types[column]
        if cell is None:
            return b"null" if "null" in types else None
        return b'""' if not cell and "string" in types else self._cells.read(column, cell)


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[:1] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[:1] in _OCTAL else _ESCAPES.get(code, code)


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


def document_of(layout: Layout, row: Row) -> Document:
    """Raises the RequestErrors that a region would."""
    if row.problem is not None:
        raise row.problem
    schema = layout.schema
    fields = row.fields
    if layout.ignored:
        fields = {name: text for name, text in fields.items() if name not in layout.ignored}
    given = fields.pop(layout.key, None)
    if given is None:
        raise InvalidKey(f"{layout.key}: required, and missing: it names the document")
    key = schema.validate_key(_key_of(layout.key, given))
    return key, schema.canonical(_encode(fields), key)


def _key_of(name: str, text: msgspec.Raw) -> str:
    """A string as it is, a whole number in digits."""
    value: Any = _decode(text)
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidKey(
        f"{name}: names the document, so it must be a string or a whole number, not {bytes(text)[:60]!r}"
    )


def told(name: str, row: Row, problem: RequestError) -> InvalidDocument:
    """The problem with its file, line and field in front."""
    return InvalidDocument(
        f"{name}: line {row.place}: {problem.message}", file=name, line=row.place, **problem.details
    )


def reject_line(row: Row, key: str | None, problem: RequestError) -> bytes:
    """A line of the reject file: where it was, what was wrong, and the row as the file had it."""
    given = row.given.decode("utf-8", "replace").rstrip("\r\n") if isinstance(row.given, bytes) else row.given
    record = {"line": row.place, "key": key, "error": problem.type, "problem": problem.message, "row": given}
    return _encode(record) + b"\n"
