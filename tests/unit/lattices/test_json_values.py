from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidOperation
from atoll.lattices.json_values import canonical_text, check_value, parse_canonical, parse_texts

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\0é", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=values)
def test_canonical_text_is_the_value_exactly(value: Any) -> None:
    check_value(value, "here")
    text = canonical_text(value)
    assert repr(json.loads(text)) == repr(json.loads(json.dumps(value, sort_keys=True)))
    assert list(map(repr, parse_canonical([text]))) == list(map(repr, parse_texts([text])))


@given(value=st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=5))
def test_order_of_object_keys_makes_no_difference(value: dict[str, int]) -> None:
    assert canonical_text(value) == canonical_text(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**63, "\udc80", {"\ud800": 1}, {1: 1}, (1,), {1}, b"", [[float("-inf")]]],
    ids=repr,
)
def test_what_is_no_json_everywhere_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOperation, match="here"):
        check_value(value, "here")


@pytest.mark.parametrize(
    "text", ["1 ", "01", "1e400", "nul", '{"b":1,"a":2}', "18446744073709551616", "[" * 99999]
)
def test_text_that_is_not_canonical_is_no_value(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_canonical([text])
