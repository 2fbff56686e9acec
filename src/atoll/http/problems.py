"""RFC 9457 problem documents: the one place where errors become HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.errors import AtollError, MethodNotAllowed, StoreError, Unavailable, UnsupportedMediaType

CONTENT_TYPE = b"application/problem+json"
RETRY_AFTER_S = 1
PREFIX = "urn:atoll:problem:"
_RESERVED = frozenset({"type", "title", "status", "detail", "instance"})


def problem(error: AtollError) -> tuple[int, bytes]:
    """Status and body. `details` become extension members."""
    kind = type(error)
    document: dict[str, Any] = {
        "type": PREFIX + kind.type,
        "title": kind.type.replace("-", " ").capitalize(),
        "status": kind.status,
        "detail": error.message,
        "definite": kind.definite,
    }
    for name, value in error.details.items():
        document[f"{name}_" if name in _RESERVED else name] = value
    return kind.status, msgspec.json.encode(document, enc_hook=str)


def headers_of(error: AtollError) -> list[tuple[bytes, bytes]]:
    """`Allow` with 405; with 415 what is taken; `Retry-After` with what a repetition mends."""
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", ", ".join(error.details["allow"]).encode())]
    if isinstance(error, UnsupportedMediaType):
        taken = {name: error.details.get(name) for name in ("accept", "accept_encoding")}
        return [(name.replace("_", "-").encode(), text.encode()) for name, text in taken.items() if text]
    if isinstance(error, Unavailable | StoreError):
        return [(b"retry-after", b"%d" % RETRY_AFTER_S)]
    return []
