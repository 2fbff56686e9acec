from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from atoll.errors import InvalidDocument
from atoll.schema import Collection, ListOf, MapOf
from atoll.schema.compiled import compile_collection
from atoll.schema.exact import check_zones, decode_exactly, may_lose_digits

NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})\.[0-9]{1,25}([eE][+-]?[0-9]{1,2})?", fullmatch=True)


class Line(BaseModel):
    price: Decimal
    share: float = 0.0


class Event(BaseModel):
    at: datetime


class Bill(Collection):
    events: list[Event] = []  # noqa: RUF012
    total: Decimal = Decimal(0)
    line: Line | None = None
    lines: ListOf[Line]
    prices: MapOf[Decimal]
    length: timedelta = timedelta(0)
    share: float = 0.0


BILL = compile_collection(Bill)


def lossless(number: str) -> bool:
    return Decimal(repr(float(number))) == Decimal(number)


@given(NUMBERS)
def test_a_decimal_sent_as_a_number_is_kept_or_refused(number: str) -> None:
    for body, place in (
        (f'{{"total":{number}}}', lambda bill: bill.total),
        (f'{{"line":{{"price":{number}}}}}', lambda bill: bill.line.price),
        (f'{{"lines":[{{"price":{number}}}]}}', lambda bill: bill.lines[0].price),
        (f'{{"prices":{{"a":{number}}}}}', lambda bill: bill.prices["a"]),
    ):
        if lossless(number):
            assert place(BILL.to_model("k", BILL.canonical(body.encode()))) == Decimal(number)
        else:
            with pytest.raises(InvalidDocument, match="would lose digits"):
                BILL.canonical(body.encode())


@given(NUMBERS)
def test_a_decimal_that_is_set_is_kept_or_refused(number: str) -> None:
    value: Any = decode_exactly(number.encode())
    assert BILL.validate_field("share", value) == float(number)
    if lossless(number):
        assert Decimal(BILL.validate_field("total", value)) == Decimal(number)
    else:
        with pytest.raises(InvalidDocument, match="would lose digits"):
            BILL.validate_field("total", value)


@given(NUMBERS)
def test_whatever_a_float_changes_is_looked_at(number: str) -> None:
    if not lossless(number):
        assert may_lose_digits(number.encode())


@pytest.mark.parametrize("length", ["PT0.0000001S", "PT1,1234567S", "00:00:01.1234567", "P1DT0.12345678901S"])
def test_a_duration_below_a_microsecond_is_refused(length: str) -> None:
    for refused in (
        lambda: BILL.canonical(f'{{"length":"{length}"}}'.encode()),
        lambda: BILL.validate_field("length", length),
    ):
        with pytest.raises(InvalidDocument, match="length"):
            refused()
    assert BILL.validate_field("length", "PT1.1234560S") == "PT1.123456S"


def test_a_nested_moment_below_a_microsecond_is_refused() -> None:
    with pytest.raises(InvalidDocument, match=r"events\.0\.at"):
        BILL.canonical(b'{"events":[{"at":"2024-01-01T00:00:00.1234567"}]}')


def test_floats_beside_decimals_may_have_many_digits() -> None:
    body = b'{"line":{"price":"1.10","share":0.30000000000000004},"share":52.520006599999999}'
    assert BILL.to_model("k", BILL.canonical(body)) == Bill(
        key="k", line=Line(price=Decimal("1.10"), share=0.1 + 0.2), share=52.5200066
    )


def test_a_zone_with_seconds_is_refused() -> None:
    old = datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32)))
    for value in (old, [1, old], {"a": (old,)}, {old: 1}, old.timetz()):
        with pytest.raises(InvalidDocument, match="seconds"):
            check_zones(value, "here")
    check_zones([old.astimezone(UTC), old.replace(tzinfo=None), timezone(timedelta(minutes=19))], "here")
