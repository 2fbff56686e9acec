"""Documents as a file's bytes, block by block."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from atoll.bulk.cells import Cells
from atoll.bulk.reading import Document
from atoll.schema import CollectionSchema

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_EMPTY = msgspec.Raw(b'""')


class Writer(NamedTuple):
    """Makes the bytes of one format; without state, so that a run can go on in the middle."""

    head: bytes
    """What stands before the first document."""
    block: Callable[[Iterable[Document]], bytes]
    """Of some documents, in order."""


def json_lines_writer() -> Writer:
    """An object a line, its key first."""

    def line(key: str, text: bytes) -> bytes:
        rest = text[1:]
        return b'{"key":' + _encode(key) + (b"" if rest[:1] == b"}" else b",") + rest + b"\n"

    return Writer(b"", lambda documents: b"".join(line(key, text) for key, text in documents))


def csv_writer(schema: CollectionSchema, delimiter: str) -> Writer:
    """A header with the key and the declared fields, then a record a document."""
    cells = Cells(schema)
    special = re.compile(f'[{re.escape(delimiter)}"\r\n]')

    def record(fields: dict[str, msgspec.Raw], key: str) -> list[str]:
        texts = ((field, fields.get(field)) for field in schema.fields)
        return [key, *(cells.write(field, None if text is None else bytes(text)) for field, text in texts)]

    def quoted(cell: str, empty: bool) -> str:
        return '"' + cell.replace('"', '""') + '"' if empty or special.search(cell) else cell

    def block(documents: Iterable[Document]) -> bytes:
        buffer = io.StringIO()
        # With this terminator, RFC 4180's, cells that hold either character are quoted.
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n")
        for key, text in documents:
            fields = _decode(text)
            empty = {field for field in cells.optional_texts if fields.get(field) == _EMPTY}
            if not empty:
                writer.writerow(record(fields, key))
                continue
            # `csv` cannot quote single cells, and a cell that is empty without quotes is null.
            pairs = zip(("", *schema.fields), record(fields, key), strict=True)
            buffer.write(delimiter.join(quoted(cell, field in empty) for field, cell in pairs) + "\r\n")
        return buffer.getvalue().encode()

    head = io.StringIO()
    csv.writer(head, delimiter=delimiter, lineterminator="\r\n").writerow(["key", *schema.fields])
    return Writer(head.getvalue().encode(), block)


def documents_in(stream: BinaryIO) -> Iterator[Document]:
    """What `json_lines_writer` wrote."""
    for line in stream:
        fields = _decode(line)
        key: str = msgspec.json.decode(fields.pop("key"))
        yield key, _encode(fields)
