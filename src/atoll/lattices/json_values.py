"""JSON values inside lattices: what is let in, and the one text that each value has.

Values are told apart by their canonical text, so that 1, 1.0, true and "1" are four values in every region.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import msgspec

from atoll.errors import InvalidOperation

MAX_DEPTH = 64
_SORTED_AT_ONCE = 64
_name_of = itemgetter(0)
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def check_value(value: Any, where: str, depth: int = 0) -> None:
    """Raise InvalidOperation unless `value` is JSON that every region reads alike.

    Refused are NaN and the infinities, integers beyond 64 bits, lone surrogates, and nesting past MAX_DEPTH.
    """
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, int):
        check_integer(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidOperation(f"{where}: {value} is not a JSON number; give a finite one")
    elif isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            raise InvalidOperation(f"{where}: nested deeper than {MAX_DEPTH} levels; flatten the value")
        if isinstance(value, dict):
            for name in value:
                check_text(name, f"{where}, object key")
            presort(value)
        for item in value.values() if isinstance(value, dict) else value:
            check_value(item, where, depth + 1)
    else:
        raise InvalidOperation(f"{where}: {type(value).__name__} is not a JSON value")


def presort(value: dict[str, Any]) -> None:
    """Sort an object's members in place, where there are many: the encoder's own way is quadratic for some orders."""
    if len(value) > _SORTED_AT_ONCE:
        members = sorted(value.items(), key=_name_of)
        value.clear()
        value.update(members)


def check_text(value: Any, where: str) -> str:
    """Return `value` if it is a string of whole Unicode characters, else raise InvalidOperation."""
    if not isinstance(value, str):
        raise InvalidOperation(f"{where}: expected a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidOperation(
            f"{where}: lone surrogate at character {error.start}; send the whole character"
        ) from None
    return value


def check_integer(value: Any, where: str) -> int:
    """Return `value` if it is an integer (a bool is none) of 64 bits, else raise InvalidOperation."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOperation(f"{where}: expected an integer, got {type(value).__name__}")
    if not INT_MIN <= value <= INT_MAX:
        raise InvalidOperation(f"{where}: the integer is beyond 64 bits; it must lie within ±2^63")
    return value


def check_list(value: Any, where: str) -> list[Any]:
    """Return `value` if it is a list of JSON values, else raise InvalidOperation."""
    if not isinstance(value, list):
        raise InvalidOperation(f"{where}: expected a list, got {type(value).__name__}")
    index = 0
    try:
        for index, item in enumerate(value):  # noqa: B007 - it says where the failure is
            check_value(item, where, 1)
    except InvalidOperation:
        check_value(value[index], f"{where}[{index}]", 1)
    return value


def canonical_text(value: Any) -> str:
    """The one JSON text of a checked value: sorted object keys, no spaces."""
    return _encoder.encode(value).decode()


def canonical_texts(values: Any, where: str) -> list[str]:
    """The canonical texts of a list's elements. Raises InvalidOperation as `check_list` does."""
    encoded = _encoder.encode(check_list(values, where))
    return [str(text, "utf-8") for text in _split(encoded)]


def parse_texts(texts: list[str]) -> list[Any]:
    """The values of canonical texts; one call into the parser for all of them."""
    return _decoder.decode("[" + ",".join(texts) + "]") if texts else []


def parse_canonical(texts: list[str]) -> list[Any]:
    """The values of texts from elsewhere; ValueError unless each is the canonical text of a valid value."""
    values = []
    for text in texts:
        value = _decoder.decode(text)
        if canonical_text(value) != text:
            raise ValueError("not the canonical text of a JSON value")
        if value.__class__ is not str:
            try:
                check_value(value, "element")
            except InvalidOperation as error:
                raise ValueError(error.message) from None
        values.append(value)
    return values


def order_of(text: str, value: Any) -> tuple[int, Any, str]:
    """Sort key of a value with canonical `text`: null, booleans, numbers, strings, arrays, objects."""
    rank = _RANKS[value.__class__]
    return rank, value if 0 < rank < _RANKS[list] else text, text


_RANKS = {type(None): 0, bool: 1, int: 2, float: 2, str: 3, list: 4, dict: 5}
