"""Documents as a file's bytes, block by block."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from atoll.bulk.cells import Cells
from atoll.bulk.reading import Document
from atoll.schema import CollectionSchema

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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
    write = Cells(schema).write

    def record(key: str, text: bytes) -> list[str]:
        fields = _decode(text)
        texts = ((field, fields.get(field)) for field in schema.fields)
        return [key, *(write(field, None if text is None else bytes(text)) for field, text in texts)]

    def lines(records: Iterable[list[str]]) -> bytes:
        buffer = io.StringIO()
        # With this terminator, RFC 4180's, cells that hold either character are quoted.
        csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n").writerows(records)
        return buffer.getvalue().encode()

    return Writer(
        lines([["key", *schema.fields]]), lambda documents: lines(record(*each) for each in documents)
    )


def documents_in(stream: BinaryIO) -> Iterator[Document]:
    """What `json_lines_writer` wrote."""
    for line in stream:
        fields = _decode(line)
        key: str = msgspec.json.decode(fields.pop("key"))
        yield key, _encode(fields)
