from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll import Collection
from atoll.errors import MalformedRequest
from atoll.schema.compiled import compile_collection
from atoll.schema.limits import check_members

NAMES = st.sampled_from(["a", "b", ":", "a:b", "é", '"', "\\", "\\u003a", "c\n"])
SINGLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(':"\\,{}ab', max_size=6)
)


class Members(list[tuple[str, Any]]):
    """An object as it is written: names may come again."""


VALUES = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(NAMES, inner), max_size=4).map(Members)
    ),
    max_leaves=12,
)


def text_of(value: Any, escaped: bool, space: str) -> str:
    if isinstance(value, Members):
        members = [f"{_name(n, escaped)}{space}:{space}{text_of(v, escaped, space)}" for n, v in value]
        return "{" + f"{space},".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(text_of(each, escaped, space) for each in value) + "]"
    return json.dumps(value)


def _name(name: str, escaped: bool) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"' if escaped else json.dumps(name)


def repeats(value: Any) -> bool:
    if isinstance(value, Members):
        return len({name for name, _ in value}) < len(value) or any(repeats(each) for _, each in value)
    return isinstance(value, list) and any(map(repeats, value))


@given(VALUES, st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_a_member_that_is_given_twice_is_found_wherever_it_is(value: Any, escaped: bool, space: str) -> None:
    body = text_of(value, escaped, space).encode()
    if repeats(value):
        with pytest.raises(MalformedRequest, match="given twice"):
            check_members(body)
    else:
        check_members(body)


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a"', b"\xff", b"[" * 100_000, b'{"a":NaN}'])
def test_what_is_no_json_is_left_to_its_reader(body: bytes) -> None:
    check_members(body)


@pytest.mark.parametrize("body", [b'{"a":1,"\\u0061":2}', b'{"a":1e999,"a":1}', b'{"a":%d,"a":2}' % 10**30])
def test_a_name_in_other_letters_is_the_same(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="'a' is given twice"):
        check_members(body)


class Flat(Collection):
    text: str = ""
    other: str = "12:30"
    number: float = 0


FLAT = compile_collection(Flat)
WORDS = st.text(':"\\{}a', max_size=6)


@given(
    st.lists(st.tuples(st.sampled_from(["text", "other"]), WORDS), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["", " ", "\n\t"]),
)
def test_a_field_that_is_given_twice_is_found_beside_colons(
    members: list[tuple[str, str]], escaped: bool, space: str
) -> None:
    names = [name for name, _ in members]
    for written in (members, [*members, ("number", "0")]):
        body = "{" + ",".join(_member(*each, escaped=escaped, space=space) for each in written) + "}"
        if len(set(names)) < len(names):
            with pytest.raises(MalformedRequest, match="given twice"):
                FLAT.canonical(body.encode())
        else:
            FLAT.canonical(body.encode())


def _member(name: str, value: str, *, escaped: bool, space: str) -> str:
    shown = value if name == "number" else _name(value, escaped)
    return f"{_name(name, escaped)}{space}:{space}{shown}"
