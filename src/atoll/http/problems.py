"""RFC 9457 problem documents: the one place where errors become HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.errors import AtollError, ConfigError, StoreError, Unavailable

CONTENT_TYPE = b"application/problem+json"
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


def retry_after_s(error: AtollError) -> int | None:
    """What to say in `Retry-After`; None for what a repetition does not mend."""
    return 1 if isinstance(error, Unavailable | StoreError) and not isinstance(error, ConfigError) else None


def explain(type_: str) -> str:
    return PREFIX + type_
