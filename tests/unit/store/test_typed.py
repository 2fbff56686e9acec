from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.store.typed_values import HELD, NONE

from atoll.store.port import Condition, Kind
from atoll.store.typed import compare, index_range

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=ZONES)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)


def order(one: Any, other: Any) -> int:
    return (one > other) - (one < other)


@given(MOMENTS, MOMENTS)
def test_moments_compare_whatever_their_zones(one: datetime, other: datetime) -> None:
    assert compare("moment", one.isoformat(), other.isoformat()) == order(one, other)


@given(DECIMALS, DECIMALS)
def test_decimals_compare_as_numbers(one: Decimal, other: Decimal) -> None:
    assert compare("decimal", str(one), str(other)) == order(one, other)


@given(st.binary(max_size=5), st.binary(max_size=5))
def test_bytes_compare_as_bytes(one: bytes, other: bytes) -> None:
    texts = [urlsafe_b64encode(each).decode() for each in (one, other)]
    assert compare("bytes", *texts) == order(one, other)


@pytest.mark.parametrize("kind", sorted(HELD))
def test_what_is_no_such_value_compares_with_none(kind: Kind) -> None:
    for held, value in product(NONE, HELD[kind]):
        if not (kind == "bytes" and held in ("", "Infinity", "x" * 300)):  # which are base64, too
            assert compare(kind, held, str(value)) is None, held


@given(MOMENTS, MOMENTS, st.sampled_from(["eq", "lt", "le", "gt", "ge"]))
def test_an_index_is_asked_for_all_that_may_be_found(held: datetime, asked: datetime, op: Any) -> None:
    found = {
        "eq": held == asked,
        "lt": held < asked,
        "le": held <= asked,
        "gt": held > asked,
        "ge": held >= asked,
    }
    low, high = index_range(Condition("n", op, asked.isoformat(), "moment"))
    text = held.isoformat()
    assert not found[op] or ((low is None or text >= str(low)) and (high is None or text <= str(high)))


def test_the_zone_of_utc_has_two_spellings() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert compare("moment", now.isoformat(), now.isoformat().replace("+00:00", "Z")) == 0
