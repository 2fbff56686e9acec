from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.bulk.cells import Cells
from atoll.errors import InvalidDocument

from .shop import EVERYTHING

CELLS = Cells(EVERYTHING)

words = st.text(st.characters(codec="utf-8"), max_size=12)
tricky = st.sampled_from(["", '"', '""', '"a"', "null", "5", "true", "[1]", " 5", "{}", "1.0"]) | words
whole = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | whole | tricky, lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": tricky,
    "maybe": st.none() | tricky,
    "number": whole,
    "ratio": st.none() | numbers,
    "flag": st.booleans(),
    "level": st.sampled_from(["low", 1, 2]),
    "either": whole | tricky,
    "anything": anything,
    "words": st.lists(tricky, max_size=3),
    "nested": st.dictionaries(words, anything, max_size=3),
    "body": tricky,
    "tags": st.lists(tricky, max_size=3, unique=True).map(sorted),
    "labels": st.dictionaries(words, whole, max_size=3),
}


@pytest.mark.parametrize("field", sorted(VALUES))
@given(data=st.data())
def test_a_cell_is_read_as_it_was_written(field: str, data: st.DataObject) -> None:
    text = msgspec.json.encode(data.draw(VALUES[field]))
    if field in CELLS.optional_texts and text == b'""':
        return  # which cell that is, CSV's quotes say: see test_reading
    cell = CELLS.write(field, text)
    assert json.loads(CELLS.read(field, cell) or b"null") == json.loads(text)


@pytest.mark.parametrize(
    ("field", "cell", "text"),
    [
        ("number", "007", b"7"),
        ("number", "+5", b"5"),
        ("flag", "TRUE", b"true"),
        ("ratio", "2.50", b"2.50"),
        ("ratio", "", b"null"),
        ("number", "", None),
        ("day", "", None),
        ("colour", "", None),
        ("text", "", b'""'),
        ("price", "12345678901234567890.10", b'"12345678901234567890.10"'),
        ("text", "5", b'"5"'),
        ("maybe", "null", b'"null"'),
        ("maybe", '"a"', b'"\\"a\\""'),
        ("tags", '["b","a"]', b'["b","a"]'),
        ("seen", "12", b"12"),
    ],
)
def test_a_cell_has_its_fields_type(field: str, cell: str, text: bytes | None) -> None:
    assert CELLS.read(field, cell) == text


@pytest.mark.parametrize(("field", "cell"), [("number", "ten"), ("tags", "a;b"), ("flag", "maybe")])
def test_a_cell_that_is_no_value_names_its_field(field: str, cell: str) -> None:
    with pytest.raises(InvalidDocument, match=f"everything: {field}: '{cell}' is no"):
        CELLS.read(field, cell)
