"""Nothing of a number or a time is lost unsaid: what a type would cut off is refused."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from dataclasses import fields as dataclass_fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from types import NoneType
from typing import Any, cast
from uuid import UUID

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import CoreSchema, SchemaValidator

from atoll.errors import InvalidDocument

MOST_DIGITS = 1000
"""Of a decimal, before and behind the point: every store can compare so many."""
_FLOAT_DIGITS = 15
"""A decimal number of so many digits is the same after it was a float."""
_NUMERIC = bytes(
    0x30 if chr(byte) in "0123456789.," else 0x65 if byte == 0x45 else byte for byte in range(256)
)
_LONG, _SMALL = b"0" * 8, b"e-000"
_BELOW_MICROSECONDS = re.compile(r"[.,][0-9]{6}0*[1-9]")
_DURATION = re.compile(r"-?P")
_ZONELESS = frozenset({bool, bytes, date, float, int, str, NoneType, Decimal, UUID})
_PACKAGES = frozenset({"atoll", "builtins", "pydantic", "pydantic_core"})
_MINUTE = timedelta(minutes=1)
_COLLECTIONS = frozenset({"list", "set", "frozenset", "tuple", "dict"})
NOT_SCHEMAS = frozenset({"metadata", "serialization", "default", "config", "expected", "cls"})


def exact_validator(model: type[BaseModel], *, fail_fast: bool = False) -> SchemaValidator:
    """The model's validator, but NaN, what has more than 6 digits of a second, or too many of a decimal, is refused.

    `fail_fast`: of each list, set or object only the first failure is reported. A million take longer to report than
    to find.
    """
    schema = exact_schema(_with_defaults(model.__pydantic_core_schema__), fail_fast)
    return SchemaValidator(schema, _use_prebuilt=False)


def model_validator(model: type[BaseModel]) -> SchemaValidator:
    """The model's validator, but its defaults are Python values in JSON, too."""
    return SchemaValidator(_with_defaults(model.__pydantic_core_schema__), _use_prebuilt=False)


def _with_defaults(schema: Any, known: Sequence[Any] = ()) -> Any:
    """A copy of a model's core schema, whose fields' defaults are taken for Python values, as they are.

    Of JSON, pydantic would take them for JSON, where some types (addresses, paths) have another form.
    """
    match schema:
        case {"type": "definitions", "definitions": definitions, "schema": inner}:
            return {**schema, "schema": _with_defaults(inner, definitions)}
        case {"type": "model-fields", "fields": fields}:
            checked = {
                name: {**each, "schema": _with_default(each["schema"], known)}
                for name, each in fields.items()
            }
            return {**schema, "fields": checked}
        case {"schema": dict() as inner}:
            return {**schema, "schema": _with_defaults(inner, known)}
    return schema


def _with_default(schema: Any, known: Sequence[Any]) -> Any:
    if schema["type"] != "default" or "'json-or-python'" not in repr(schema):
        return schema
    whole = {"type": "definitions", "schema": schema["schema"], "definitions": known}
    check = SchemaValidator(cast(CoreSchema, whole if known else schema["schema"])).validate_python
    if (factory := schema.get("default_factory")) is not None:
        made = {"default_factory": lambda *data: check(factory(*data), strict=True)}
    else:
        try:
            made = {"default": check(schema["default"], strict=True)}
        except ValidationError:
            return schema  # as JSON it may fit
    return {**schema, **made, "validate_default": False}


def exact_schema(schema: Any, fail_fast: bool = False) -> Any:
    """A copy of a core schema, stricter."""
    if isinstance(schema, dict):
        made = {
            name: {field: exact_schema(each, fail_fast) for field, each in inner.items()}
            if name == "fields" and isinstance(inner, dict)
            else inner
            if name in NOT_SCHEMAS
            else exact_schema(inner, fail_fast)
            for name, inner in schema.items()
        }
        if fail_fast and made.get("type") in _COLLECTIONS:
            made["fail_fast"] = True
        match made.get("type"):
            case "datetime" | "time" | "timedelta":
                made["microseconds_precision"] = "error"
            case "float":
                made["allow_inf_nan"] = False
            case "decimal":
                made["allow_inf_nan"] = False
                made["max_digits"] = min(int(schema.get("max_digits") or MOST_DIGITS), MOST_DIGITS)
        return made
    if isinstance(schema, list | tuple):
        return type(schema)(exact_schema(each, fail_fast) for each in schema)
    return schema


def may_lose_digits(body: bytes) -> bool:
    """Whether JSON text may hold a number that is another one as a float. Cheap, and sometimes wrong."""
    numeric = body.translate(_NUMERIC)
    return _LONG in numeric or _SMALL in numeric


def exact_number(text: str) -> float | Decimal:
    """A number with a fraction: a Decimal where a float is another number."""
    value = float(text)
    return value if len(text) <= _FLOAT_DIGITS and value else _exactly(text, value)


def _exactly(text: str, value: float) -> float | Decimal:
    exact = Decimal(text)
    return value if exact == Decimal(repr(value)) else exact


decode_exactly: Callable[[bytes], Any] = msgspec.json.Decoder(float_hook=exact_number).decode
"""JSON whose numbers are Decimals where a float would be another number."""


def check_digits(given: Any, stored: Any, where: str) -> None:
    """Raise InvalidDocument where decimals or durations of `given`, decoded exactly, have lost digits in `stored`."""
    if isinstance(given, Decimal):
        if isinstance(stored, str) and _number(stored) not in (None, given):
            raise InvalidDocument(
                f"{where}: as a JSON number, {str(given)[:40]} would lose digits; send the decimal as a string"
            )
    elif isinstance(given, str):
        # Of durations pydantic rounds what it refuses of moments.
        if isinstance(stored, str) and _BELOW_MICROSECONDS.search(given) and _DURATION.match(stored):
            raise InvalidDocument(
                f"{where}: {given[:40]!r} has more than 6 digits of a second; round it before"
            )
    elif isinstance(given, dict) and isinstance(stored, dict):
        for name in given.keys() & stored.keys():
            check_digits(given[name], stored[name], f"{where}.{name}")
    elif isinstance(given, list) and isinstance(stored, list):
        for one, other in zip(given, stored, strict=False):
            check_digits(one, other, where)


def check_zones(value: Any, where: str) -> None:
    """Raise InvalidDocument for times whose zone has seconds: their text would be that of another moment."""
    if isinstance(value, datetime | time):
        offset = value.utcoffset()
        if offset is not None and offset % _MINUTE:
            raise InvalidDocument(
                f"{where}: the zone of {value.isoformat()} has seconds, which JSON's times have not; convert it to UTC"
            )
    elif isinstance(value, list | tuple | set | frozenset | deque):
        if not _ZONELESS.issuperset(map(type, value)):
            for each in value:
                check_zones(each, where)
    elif isinstance(value, dict):
        for name, each in value.items():
            check_zones(name, where)
            check_zones(each, where)
    elif isinstance(value, BaseModel) or is_dataclass(value):
        check_zones(value.__dict__ if hasattr(value, "__dict__") else asdict(value), where)  # type: ignore[arg-type]


def same_value(one: Any, other: Any, *, typed: bool = False) -> bool:
    """Whether a value that was read is the one that was written.

    JSON tells no tuple from a list, nor an `IntEnum` from its number; with `typed` they differ.
    """
    if typed:
        if type(one) is not type(other):
            return False
    elif one == other:
        return True
    same = partial(same_value, typed=typed)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, BaseModel) and type(one) is type(other):
        return all(same(getattr(one, name), getattr(other, name)) for name in type(one).model_fields)
    if is_dataclass(one) and type(one) is type(other):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in dataclass_fields(one))
    if isinstance(one, datetime) and isinstance(other, datetime) and (one.tzinfo and other.tzinfo):
        return not one - other  # `==` is never true in the hour that a zone has twice
    return bool(one == other)


def own_functions(schema: Any) -> bool:
    """Whether validators or serializers that are neither pydantic's nor Atoll's occur in a core schema."""
    if isinstance(schema, list | tuple):
        return any(map(own_functions, schema))
    if not isinstance(schema, dict):
        return False
    for name, inner in schema.items():
        if name == "function":
            called = inner.get("function") if isinstance(inner, dict) else inner
            package = (getattr(called, "__module__", None) or "").partition(".")[0]
            if callable(called) and package not in _PACKAGES:
                return True
        if name not in ("metadata", "cls", "config") and own_functions(inner):
            return True
    return False


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def as_float(value: Any) -> float:
    """For encoders: what `decode_exactly` has kept exact, where a float is wanted."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
