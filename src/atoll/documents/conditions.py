"""`where=field:op:value`: the value read as the field's type, so that it is compared as what it is.

Some types are texts in JSON, and their texts have another order, or several texts for one value. Such a value is
compared by itself (`store.typed`), or by its one stored text, or the comparison is refused.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, get_args
from uuid import UUID

import msgspec

from atoll.documents.rules import Rules
from atoll.errors import InvalidDocument, InvalidOperation, MalformedRequest
from atoll.schema.fields import INT_MAX, INT_MIN
from atoll.schema.forms import FieldForm, text_type
from atoll.schema.limits import Limits
from atoll.store.port import Condition, Kind, Operator

OPERATORS: Final[Mapping[str, Operator]] = {name: name for name in get_args(Operator)}
_EQUALITY = frozenset({"eq", "ne", "contains"})
_LISTS = frozenset({"list", "set", "tuple"})
_URLS = frozenset({"multi-host-url", "url"})
_UNORDERED = frozenset({"complex", "function-plain", "is-instance", "json-or-python"})
"""Types that are texts in JSON, in an order of their own."""
_PLAIN = (
    frozenset({"bool", "default", "enum", "float", "int", "literal", "nullable", "str", "union"}) | _LISTS
)
_decode = msgspec.json.Decoder(float_hook=str).decode
"""A number with a fraction as its text: as a float it would lose digits."""


_TYPES: Mapping[str, tuple[Any, str]] = {
    "bytes": (bytes, "bytes in base64"),
    "date": (datetime.date, "date, such as 2026-01-31"),
    "datetime": (datetime.datetime, "time such as 2026-01-31T12:00:00Z, of at most 6 digits after the point"),
    "decimal": (Decimal, "decimal number of at most 1000 digits"),
    "time": (datetime.time, "time of day without a zone, such as 12:00:00"),
    "timedelta": (datetime.timedelta, "duration, such as PT90S"),
    "uuid": (UUID, "UUID"),
}
"""The core schema's word → the type, and how it is written."""


def condition_of(rules: Rules, field: str, op: Operator, text: str) -> Condition:
    """`text` is JSON, or a string without its quotes.

    Raises UnknownField, MalformedRequest; InvalidOperation where the field's type has no such comparison.
    """
    schema = rules.schema
    if field not in schema.forms:
        schema.validate_field(field, None)  # raises UnknownField, naming what may have been meant
    form = schema.forms[field]
    if op == "contains":
        form = schema.elements.get(field, form)
    what = text_type(form)
    where = f"{rules.name}.{field}"
    value = _value_of(text, f"where={field}:{op}:…", decimal=what == "decimal")
    if value is None or what is None:
        return Condition(field, op, _stored(form, value, op, where, schema.limits))
    if what == "":
        raise InvalidOperation(
            f"{where} holds texts of several types, and no comparison means the same for all; declare one type",
            field=field,
        )
    if op == "contains" and form is schema.forms[field] and not form.node_types() & _LISTS:
        raise InvalidOperation(
            f"{where} is a {what}, which contains nothing; use eq, or ge and lt", field=field
        )
    stored, kind = _read(what, value, schema.limits)
    if stored is None:
        raise InvalidOperation(
            f"{where} is compared with a {_TYPES[what][1]}, not with {text[:60]!r}", field=field
        )
    if op in _EQUALITY:
        return Condition(field, op, stored, kind if kind in ("moment", "decimal") else "json")
    if what == "timedelta":
        raise InvalidOperation(
            f"{where}: the texts of durations have no order; compare with eq or ne, or declare seconds as an int",
            field=field,
        )
    return Condition(field, op, stored, kind)


def _read(what: str, value: Any, limits: Limits) -> tuple[str | None, Kind]:
    """A value as it is stored, None where it is no such one; and what an order compares."""
    try:
        stored = str(_form(what).check(value, limits))
    except InvalidDocument:
        return None, "json"
    match what:
        case "datetime":
            return stored, "moment" if _zoned(stored) else "local"
        case "time":
            return (None if _zoned(stored) else stored), "time"
        case "decimal":
            return stored, "decimal"
        case "bytes":
            return stored, "bytes"
        case _:
            return stored, "json"


@lru_cache(maxsize=16)
def _form(what: str) -> FieldForm:
    return FieldForm.of_type("where", _TYPES[what][0])


def _zoned(stored: str) -> bool:
    return stored[-1] == "Z" or stored[-6] in "+-"


def _value_of(text: str, where: str, *, decimal: bool) -> str | int | float | bool | None:
    try:
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text
    if isinstance(value, dict | list):
        raise MalformedRequest(f"{where} compares with a single value, not with an object or a list")
    if decimal and not isinstance(value, bool) and value is not None:
        return str(value)
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise MalformedRequest(f"{where} compares with an integer beyond 64 bits")
    if isinstance(value, str) and text.lstrip()[:1] != '"':
        if not math.isfinite(float(value)):
            raise MalformedRequest(f"{where} compares with a number that no float holds")
        return float(value)
    return value  # type: ignore[no-any-return]


def _stored(form: FieldForm, value: Any, op: Operator, where: str, limits: Limits) -> Any:
    """A text in the spelling that documents have, such as that of a URL."""
    if not isinstance(value, str) or form.node_types() <= _PLAIN:
        return value
    if op not in _EQUALITY:
        if not form.node_types() & _URLS and (form.node_types() & _UNORDERED or form.has_serializer()):
            raise InvalidOperation(f"{where}: its type has no order as text; compare with eq or ne")
        return value
    try:
        stored = form.check(value, limits)
    except InvalidDocument:
        return value
    return stored if isinstance(stored, str) else value
