"""What a request may carry beside its body: parameters of path, query and header, each with a type.

One declaration gives the check of a request, its message, and the JSON schema of the description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

from atoll.errors import MalformedRequest, TooLarge
from atoll.schema.bounds import QUERY_BYTES

Place = Literal["path", "query", "header"]

_MAX_FIELDS = 100
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Kind(Protocol):
    """The type of a parameter."""

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""

    def read(self, name: str, text: str) -> Any:
        """The value of `text`. Raises MalformedRequest, naming the parameter and what it takes."""


@dataclass(frozen=True, slots=True)
class Text:
    """Any text; what reads it checks it further."""

    format: str = ""
    """Names a form that a regular expression does not tell."""
    pattern: str = ""
    min_length: int = 0
    max_length: int = 0
    """0: bounded by the query string or the head alone."""

    def schema(self) -> dict[str, Any]:
        bounds = {
            "format": self.format,
            "pattern": self.pattern,
            "minLength": self.min_length,
            "maxLength": self.max_length,
        }
        return {"type": "string", **{name: bound for name, bound in bounds.items() if bound}}

    def read(self, name: str, text: str) -> str:
        return text


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.words)}

    def read(self, name: str, text: str) -> str:
        if text not in self.words:
            raise MalformedRequest(f"{name}={text[:64]!r} is not one of {', '.join(self.words)}")
        return text


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def read(self, name: str, text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= 10
        if not digits or not self.least <= int(text) <= self.most:
            raise MalformedRequest(
                f"{name} takes a whole number from {self.least} to {self.most}, not {text[:32]!r}"
            )
        return int(text)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration."""

    most: int

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": self.most}

    def read(self, name: str, text: str) -> float:
        seconds = float(text) if _NUMBER.fullmatch(text) else inf
        if seconds > self.most:
            raise MalformedRequest(f"{name} takes seconds from 0 to {self.most}, not {text[:32]!r}")
        return seconds


_OTHER_MOMENTS = (8, 10, 14)
"""Digits of 20261123, of seconds, and of 20261123090000: as milliseconds they would be of 1970, or far away."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, as unix milliseconds. A text without a zone would mean the server's own time."""

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "moment"}

    def read(self, name: str, text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) <= 16 and len(text) not in _OTHER_MOMENTS:
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return int(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            pass
        raise MalformedRequest(
            f"{name} takes unix milliseconds, or ISO 8601 with a time zone such as 2026-11-23T09:00:00Z or"
            f" 2026-11-23T18:00:00%2B09:00, not {text[:64]!r}"
        )


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that a request may carry beside its body."""

    name: str
    kind: Kind
    meaning: str
    place: Place = "query"
    required: bool = False
    """Of a request: it is refused without. Of an answer: it always has it."""
    default: Any = None
    """What a request without it means."""
    most: int = 1
    """How often it may be given; a list is read where that is more than once."""


Query = Mapping[str, Parameter]
"""The query parameters of a route, by name."""


def defaults_of(query: Query) -> dict[str, Any]:
    """What a request without a query string asks."""
    return {name: () if each.most > 1 else each.default for name, each in query.items()}


def read_query(raw: bytes, query: Query, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a query string, and the defaults of what it does not name.

    Raises MalformedRequest for a parameter that is unknown, given too often, or of another form; TooLarge.
    """
    if len(raw) > QUERY_BYTES:
        raise TooLarge(f"the query string has {len(raw)} bytes; the limit is {QUERY_BYTES}")
    check_escapes(raw, "the query string")
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise MalformedRequest(f"the query string cannot be read: {error}") from None
    found: dict[str, list[Any]] = {}
    for name, text in pairs:
        parameter = query.get(name)
        if parameter is None:
            known = f"there are {', '.join(sorted(query))}" if query else "this call takes none"
            raise MalformedRequest(f"there is no query parameter {name[:64]!r} here; {known}")
        values = found.setdefault(name, [])
        if len(values) == parameter.most:
            times = "once" if parameter.most == 1 else f"{parameter.most} times"
            raise MalformedRequest(f"{name} may be given {times} at most")
        values.append(parameter.kind.read(name, text))
    given = {name: values if query[name].most > 1 else values[0] for name, values in found.items()}
    return {**defaults, **given}


def check_escapes(raw: bytes, where: str) -> None:
    """Raises MalformedRequest for a percent sign without two hexadecimal digits."""
    if b"%" in raw and (bad := _BAD_ESCAPE.search(raw)):
        escape = raw[bad.start() : bad.start() + 3].decode("latin-1")
        raise MalformedRequest(f"{escape!r} in {where} is no percent-escape; write %25 for a percent sign")
