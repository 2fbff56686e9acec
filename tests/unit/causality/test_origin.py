from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.origin import (
    PATTERN,
    by_region,
    incarnation_of,
    latest_of,
    next_incarnation,
    of_region,
    origin_of,
    region_of,
)

REGIONS = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
INCARNATIONS = st.integers(0, (1 << 52) - 1)
NOW_MS = 1_800_000_000_000


@given(region=REGIONS, incarnation=INCARNATIONS)
def test_an_origin_tells_its_region_and_incarnation(region: str, incarnation: int) -> None:
    origin = origin_of(region, incarnation)
    assert (region_of(origin), incarnation_of(origin)) == (region, incarnation)
    assert re.match(PATTERN, origin)


def test_the_first_incarnation_is_called_as_the_region() -> None:
    assert origin_of("tokyo", 0) == "tokyo"


@given(known=st.lists(INCARNATIONS), now_ms=st.integers(0, NOW_MS * 2))
def test_a_new_incarnation_is_above_those_that_are_known(known: list[int], now_ms: int) -> None:
    found = next_incarnation(now_ms, [origin_of("a", each) for each in known])
    assert found > max(known, default=0)


def test_incarnations_begun_a_second_apart_differ_whatever_is_known() -> None:
    assert next_incarnation(NOW_MS, []) < next_incarnation(NOW_MS + 1000, []) < 1 << 32


@pytest.mark.parametrize("name", ["tokyo~", "tokyo~x", "~1", "tokyo~1~2", "tokyo~12345678901234"])
def test_what_is_no_origin_does_not_match(name: str) -> None:
    assert not re.match(PATTERN, name)


def test_a_region_is_not_taken_for_one_with_a_longer_name() -> None:
    vector = {"a": 1, "a~5": 2, "ab": 3, "ab~5": 4}
    assert of_region(vector, "a") == {"a": 1, "a~5": 2}


def test_people_see_how_much_of_each_region_is_here() -> None:
    assert latest_of({"tokyo": 9, "tokyo~7": 2, "tokyo~a": 1, "tokyo2~b": 4}, "tokyo") == "tokyo~a"
    assert latest_of({"oregon": 1}, "tokyo") == "tokyo"
    assert by_region({"tokyo~7": 2, "tokyo": 3, "oregon": 1}) == {"oregon": 1, "tokyo": 5}
