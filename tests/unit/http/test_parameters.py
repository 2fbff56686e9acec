from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import MalformedRequest, TooLarge
from atoll.http.parameters import (
    Choice,
    Kind,
    Moment,
    Parameter,
    Seconds,
    Text,
    Whole,
    defaults_of,
    read_query,
)

PARAMETERS = (
    Parameter("where", Text(), "a condition", most=3),
    Parameter("limit", Whole(1, 10), "results", default=7),
    Parameter("level", Choice(("low", "high")), "how much"),
)
QUERY = {each.name: each for each in PARAMETERS}
DEFAULTS = defaults_of(QUERY)


def read(raw: bytes) -> dict[str, Any]:
    return read_query(raw, QUERY, DEFAULTS)


def test_what_is_not_given_has_its_default() -> None:
    assert read(b"level=low") == {"where": (), "limit": 7, "level": "low"}
    assert read(b"limit=3") == {"where": (), "limit": 3, "level": None}


def test_what_may_be_given_again_keeps_every_value() -> None:
    assert read(b"where=a:eq:1&where=b&where=%C3%A9+x")["where"] == ["a:eq:1", "b", "é x"]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"other=1", "there are level, limit, where"),
        (b"limit=1&limit=1", "limit may be given once at most"),
        (b"&".join([b"where=1"] * 4), "where may be given 3 times at most"),
        (b"&".join([b"where=1"] * 101), "cannot be read"),
        (b"where=%ff", "cannot be read"),
        (b"where=\xff", "cannot be read"),
        (b"where=%zz", "no percent-escape"),
        (b"where=5%", "no percent-escape"),
        (b"level=middle", "not one of low, high"),
    ],
)
def test_a_query_that_cannot_be_used_says_why(raw: bytes, told: str) -> None:
    with pytest.raises(MalformedRequest, match=told):
        read(raw)


def test_a_call_without_parameters_says_so() -> None:
    with pytest.raises(MalformedRequest, match="this call takes none"):
        read_query(b"x=1", {}, {})


def test_a_query_without_end_is_too_large() -> None:
    with pytest.raises(TooLarge):
        read(b"where=" + b"x" * 20_000)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(1, 10), "10", 10),
        (Seconds(60), "0.5", 0.5),
        (Moment(), "1700000000000", 1_700_000_000_000),
        (Moment(), "2023-11-14T22:13:20Z", 1_700_000_000_000),
    ],
)
def test_a_value_is_read(kind: Kind, text: str, value: object) -> None:
    assert kind.read("it", text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(1, 10), "0"),
        (Whole(1, 10), "11"),
        (Whole(1, 10), "-1"),
        (Whole(1, 10), "٣"),
        (Whole(1, 10), "1" * 5000),
        (Seconds(60), "61"),
        (Seconds(60), "nan"),
        (Seconds(60), "soon"),
        (Moment(), "yesterday"),
        (Moment(), "9" * 17),
    ],
)
def test_a_value_that_does_not_fit_names_its_parameter(kind: Kind, text: str) -> None:
    with pytest.raises(MalformedRequest, match="it takes"):
        kind.read("it", text)
