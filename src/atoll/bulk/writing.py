"""Documents as a file's bytes, block by block."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

import msgspec

from atoll.bulk.cells import Cells
from atoll.bulk.documents import Document
from atoll.schema import CollectionSchema

_encode = msgspec.json.Encoder().encode


class Writer(Protocol):
    """Makes the bytes of one format; stateless, so that a run can go on in the middle."""

    def head(self) -> bytes:
        """What stands before the first document."""

    def block(self, documents: Iterable[Document]) -> bytes:
        """Some documents, in order."""


class JsonLinesWriter:
    """An object a line, its key first."""

    def head(self) -> bytes:
        return b""

    def block(self, documents: Iterable[Document]) -> bytes:
        lines = []
        for key, text in documents:
            rest = text[1:]
            lines.append(b'{"key":' + _encode(key) + (b"" if rest[:1] == b"}" else b",") + rest + b"\n")
        return b"".join(lines)


class CsvWriter:
    """A header with the key and the declared fields, then a record a document."""

    def __init__(self, schema: CollectionSchema, delimiter: str) -> None:
        self._fields = schema.fields
        self._cells = Cells(schema)
        self._delimiter = delimiter
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def head(self) -> bytes:
        return self._lines([["key", *self._fields]])

    def block(self, documents: Iterable[Document]) -> bytes:
        return self._lines(self._record(key, text) for key, text in documents)

    def _record(self, key: str, text: bytes) -> list[str]:
        fields = self._decode(text)
        write = self._cells.write
        texts = ((field, fields.get(field)) for field in self._fields)
        return [key, *(write(field, None if text is None else bytes(text)) for field, text in texts)]

    def _lines(self, records: Iterable[list[str]]) -> bytes:
        buffer = io.StringIO()
        # With this terminator, RFC 4180's, cells that hold either character are quoted.
        csv.writer(buffer, delimiter=self._delimiter, lineterminator="\r\n").writerows(records)
        return buffer.getvalue().encode()


def documents_in(stream: BinaryIO) -> Iterator[Document]:
    """What `JsonLinesWriter` wrote."""
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    for line in stream:
        fields = decode(line)
        key: str = msgspec.json.decode(fields.pop("key"))
        yield key, _encode(fields)
