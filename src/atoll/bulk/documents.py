"""Rows as documents: a key, and what the collection's declaration makes of the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.bulk.reading import Layout, Row
from atoll.errors import InvalidDocument, InvalidKey, RequestError

Document = tuple[str, bytes]
"""(key, canonical JSON text)"""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


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
