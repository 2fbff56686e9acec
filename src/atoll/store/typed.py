"""Comparisons of values that JSON holds as texts, but that are no texts: moments, decimals, times, bytes.

A text that is no such value equals none of them, and has no order with any. The functions of PostgreSQL's
`functions.sql` read the same texts.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from atoll.store.port import Condition, Kind

_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_LOCAL = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_TIME}")
_MOMENT = re.compile(rf"{_LOCAL.pattern}(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])")
_CLOCK = re.compile(_TIME)
_DECIMAL = re.compile(r"-?[0-9]{1,1100}(?:\.[0-9]{1,1100})?(?:[eE][+-]?[0-9]{1,4})?")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2}==|[A-Za-z0-9+/_-]{3}=)?")
_STANDARD = str.maketrans("-_", "+/")
_START = datetime.fromisoformat("0001-01-01")
_MICROSECOND = timedelta(microseconds=1)
_SLACK = timedelta(days=1, seconds=1)
"""A moment's text is at most a day from that of the same moment in UTC."""

JSON_TYPES: Mapping[Kind, tuple[str, ...]] = {"decimal": ("text", "integer", "real")}
"""As SQLite calls them; `text` alone for the others."""


def compare(kind: Kind, held: Any, given: str) -> int | None:
    """-1, 0 or 1 as `held` is below, equal to or above `given`; None where one of them is no such value."""
    left, right = _read(kind, held), _given(kind, given)
    return None if left is None or right is None else (left > right) - (left < right)


def index_range(condition: Condition) -> tuple[str | float | None, str | float | None]:
    """Between which all lies, as SQLite's index holds it, that the condition can find; None is no bound."""
    assert isinstance(condition.value, str)
    low, high = _RANGES.get(condition.kind, _anything)(condition.value)
    return (None if condition.op in ("lt", "le") else low, None if condition.op in ("gt", "ge") else high)


def _texts_about(given: str) -> tuple[str | None, str | None]:
    at = datetime.fromisoformat(given)
    utc = at.replace(tzinfo=None)
    shift = at.utcoffset() or timedelta(0)
    return _moved(utc, -_SLACK - shift), _moved(utc, _SLACK - shift)


def _moved(at: datetime, by: timedelta) -> str | None:
    try:
        return (at + by).isoformat(timespec="seconds")
    except OverflowError:
        return None


def _floats_about(given: str) -> tuple[float | None, float | None]:
    """SQLite's nearest float may be some units in the last place away from Python's."""
    near = float(given)
    if abs(near) > 1e300:  # or infinite, and so is what lies about it
        return (1e299, None) if near > 0 else (None, -1e299)
    margin = abs(near) * 1e-12 + 1e-300
    return near - margin, near + margin


def _anything(given: str) -> tuple[None, None]:
    return None, None


def _read(kind: Kind, held: Any) -> Any:
    if kind == "decimal" and held.__class__ in (int, float):
        held = repr(held)
    return _READERS[kind](held) if isinstance(held, str) else None


def _moment(text: str) -> int | None:
    """In microseconds of UTC, also beyond the years that a `datetime` can have."""
    if not _MOMENT.fullmatch(text):
        return None
    at = _parsed(text)
    return None if at is None else _count(at) - (at.utcoffset() or timedelta(0)) // _MICROSECOND


def _local(text: str) -> int | None:
    at = _parsed(text) if _LOCAL.fullmatch(text) else None
    return None if at is None else _count(at)


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # such as the 30th of February
        return None


def _count(at: datetime) -> int:
    return (at.replace(tzinfo=None) - _START) // _MICROSECOND


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _bytes(text: str) -> bytes | None:
    return binascii.a2b_base64(text.translate(_STANDARD)) if _BASE64.fullmatch(text) else None


def _time(text: str) -> str | None:
    return text if _CLOCK.fullmatch(text) else None


_READERS: Mapping[Kind, Callable[[str], Any]] = {
    "moment": _moment,
    "local": _local,
    "decimal": _decimal,
    "bytes": _bytes,
    "time": _time,
}
_RANGES: Mapping[Kind, Callable[[str], tuple[str | float | None, str | float | None]]] = {
    "moment": _texts_about,
    "local": _texts_about,
    "decimal": _floats_about,
}
_given = lru_cache(maxsize=256)(_read)
"""The same for every row that is compared."""
