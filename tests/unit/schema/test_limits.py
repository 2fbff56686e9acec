from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidDocument, InvalidKey, TooLarge
from atoll.schema import Limits
from atoll.schema.limits import check_size, check_spelling, check_text, validate_key

LIMITS = Limits()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 1e18, 0.1234567890123456, "9" * 40, "NaN"])
def test_what_every_region_reads_alike_passes(number: object) -> None:
    check_text(json.dumps({"a": number}).encode(), LIMITS, "x")


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "-9223372036854775809", "9" * 5000, "NaN", "-Infinity"]
)
def test_what_they_would_not_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument):
        check_text(f'{{"a":{text}}}'.encode(), LIMITS, "x")


def test_nesting_is_bounded() -> None:
    check_text(nested(64), LIMITS, "x")
    with pytest.raises(InvalidDocument, match="deeper than 64"):
        check_text(nested(65), LIMITS, "x")


brackets = st.recursive(
    st.just([]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=40,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0


@given(brackets, st.integers(1, 8))
def test_levels_are_counted_as_they_are(value: object, most: int) -> None:
    body, limits = json.dumps([value] * 9).encode(), Limits(depth=most)
    if depth([value]) <= most:
        check_text(body, limits, "x")
    else:
        with pytest.raises(InvalidDocument, match=f"deeper than {most}"):
            check_text(body, limits, "x")


def test_brackets_in_strings_are_no_nesting() -> None:
    check_text(json.dumps(["[" * 99, '\\"{{' * 99]).encode(), LIMITS, "x")


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    check_text(b"[" + b",".join([b"[]"] * 1000) + b"]", LIMITS, "x")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


def largest(value: Any) -> int:
    if isinstance(value, list | dict):
        return max(map(largest, value.values() if isinstance(value, dict) else value), default=0)
    return (value if value >= 0 else -value - 1) if isinstance(value, int) else 0


@given(values, st.booleans())
def test_bytes_are_judged_as_their_content(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    if depth_of(value) <= 4 and largest(value) < 2**63:
        check_text(text, Limits(depth=4), "x")
    else:
        with pytest.raises(InvalidDocument):
            check_text(text, Limits(depth=4), "x")


def test_size_is_bounded() -> None:
    check_size(b"x" * 10, Limits(document_bytes=10), "x")
    with pytest.raises(TooLarge, match="11 bytes, the bound is 10"):
        check_size(b"x" * 11, Limits(document_bytes=10), "x")


@pytest.mark.parametrize("key", ["a", "order/1", "é", "a" * 512, "日本", "a b", "v1.2", "...", "a%2F"])
def test_ordinary_keys_pass(key: str) -> None:
    assert validate_key(key, LIMITS) == key


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "at least one"),
        (3, "a string"),
        ("a" * 513, "513 bytes"),
        ("é" * 257, "514 bytes"),
        ("a\x00", r"U\+0000"),
        ("a\x7f", r"U\+007F"),
        ("é\x85", r"U\+0085"),
        ("\ud800", "surrogate"),
        ("e\u0301", "normal form C"),
        ("a/../b", "drop from a URL"),
        (".", "drop from a URL"),
    ],
)
def test_keys_that_would_not_survive_are_refused(key: Any, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        validate_key(key, LIMITS)


def test_a_key_in_another_normal_form_is_told_its_own() -> None:
    with pytest.raises(
        InvalidKey, match=r"'cafe\u0301' .* U\+0065 U\+0301 at 3 .* U\+00E9.*caf%C3%A9"
    ) as refused:
        validate_key("cafe\u0301", LIMITS)
    assert refused.value.details == {"normal": "caf\u00e9"}


def test_half_a_character_has_no_spelling() -> None:
    with pytest.raises(InvalidKey, match="lone surrogate at character 1") as refused:
        check_spelling("a\ud800", "prefix")
    assert refused.value.details == {}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_every_other_spelling_is_told_one_that_is_taken(text: str) -> None:
    try:
        check_spelling(text, "prefix")
    except InvalidKey as error:
        check_spelling(error.details["normal"], "prefix")
