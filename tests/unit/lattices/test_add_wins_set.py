from __future__ import annotations

from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import HostileEntry, InvalidOperation
from atoll.lattices.add_wins_set import SetLattice
from atoll.lattices.base import Actor

REGIONS = ("frankfurt", "tokyo")
FRANKFURT, TOKYO = (Actor(region, REGIONS) for region in REGIONS)

cart = SetLattice()


def after(*deltas: Any) -> Any:
    return reduce(cart.merge, deltas, cart.empty())


def holding(*elements: Any) -> Any:
    return after(cart.operate(cart.empty(), "$add", list(elements), TOKYO))


def test_concurrent_addition_wins_over_removal() -> None:
    seen = holding("milk")
    removed = cart.operate(seen, "$remove", ["milk"], FRANKFURT)
    added = cart.operate(seen, "$add", ["milk"], TOKYO)
    assert cart.value(after(seen, removed, added)) == ["milk"]
    assert cart.value(after(seen, added, removed)) == ["milk"]


def test_removal_of_what_was_seen_lasts() -> None:
    seen = holding("milk", "bread")
    removed = cart.operate(seen, "$remove", ["milk"], FRANKFURT)
    assert cart.value(after(removed, seen, removed)) == ["bread"]


def test_write_of_a_value_keeps_concurrent_additions() -> None:
    seen = holding("milk", "bread")
    written = cart.difference(seen, ["bread", "eggs"], FRANKFURT)
    meanwhile = cart.operate(seen, "$add", ["tea"], TOKYO)
    assert cart.value(after(seen, written, meanwhile)) == ["bread", "eggs", "tea"]


def test_values_that_python_takes_for_equal_stay_apart() -> None:
    assert list(map(repr, cart.value(holding(1, 1.0, True, "1")))) == ["True", "1", "1.0", "'1'"]


def test_elements_show_in_one_order_of_types_and_values() -> None:
    mixed = [{"b": 1, "a": 2}, [2], "b", "B", 10, 9.5, False, None]
    assert cart.value(holding(*mixed)) == [None, False, 9.5, 10, "B", "b", [2], {"a": 2, "b": 1}]


def test_nothing_to_change_is_no_delta() -> None:
    seen = holding("milk")
    assert cart.operate(seen, "$remove", ["tea"], TOKYO) is None
    assert cart.operate(seen, "$add", [], TOKYO) is None
    assert cart.difference(seen, ["milk", "milk"], TOKYO) is None


def test_context_is_one_number_a_region_once_all_arrived() -> None:
    state = cart.empty()
    for n in range(50):
        state = after(state, cart.operate(state, "$add", [n % 3], TOKYO))
    assert state.seen == {"tokyo": 50}
    assert not state.cloud
    assert sum(map(len, state.entries.values())) == 3


def test_delta_is_small_beside_its_set() -> None:
    large = holding(*range(1000))
    delta = cart.operate(large, "$add", ["milk"], FRANKFURT)
    assert len(cart.encode(delta)) < 40


@pytest.mark.parametrize(
    "argument", ["milk", None, {"a": 1}, [float("nan")], [2**63], ["\ud800"], [{1: 2}], [b""]]
)
def test_other_than_lists_of_json_is_refused(argument: Any) -> None:
    with pytest.raises(InvalidOperation):
        cart.operate(cart.empty(), "$add", argument, TOKYO)


def test_nesting_is_bounded() -> None:
    deep: Any = []
    for _ in range(62):
        deep = [deep]
    assert cart.value(holding(deep)) == [deep]
    with pytest.raises(InvalidOperation, match="nested"):
        holding([deep])


@pytest.mark.parametrize(
    "state",
    [
        ({}, {}, {"tokyo": ([1], ['"a"'])}),
        ({"tokyo": 1}, {}, {"tokyo": ([1], ['"a" '])}),
        ({"tokyo": 2}, {}, {"tokyo": ([1, 2], ["1,2", "[3"])}),
        ({"tokyo": 2}, {}, {"tokyo": ([1, 1], ["1", "2"])}),
        ({"tokyo": 1}, {}, {"tokyo": ([1], ["[" * 65 + "]" * 65])}),
        ({"tokyo": 1}, {}, {"tokyo": ([], [])}),
        ({"tokyo": 0}, {}, {}),
    ],
    ids=["outside context", "spaced", "torn", "twice", "deep", "hollow", "zero"],
)
def test_states_that_no_encode_wrote_are_refused(state: Any) -> None:
    with pytest.raises(HostileEntry):
        cart.decode(msgspec.msgpack.encode(state))


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["$add", "$remove", "pull"]),
        st.lists(st.integers(0, 3), max_size=3),
    ),
    max_size=20,
)


@given(history=steps)
def test_shows_what_a_set_with_a_tombstone_a_removal_would(history: list[Any]) -> None:
    states = [cart.empty(), cart.empty()]
    oracles: list[tuple[set[Any], set[Any]]] = [(set(), set()), (set(), set())]
    for step, (here, name, elements) in enumerate(history):
        added, removed = oracles[here]
        if name == "pull":
            states[here] = cart.merge(states[here], states[1 - here])
            oracles[here] = (added | oracles[1 - here][0], removed | oracles[1 - here][1])
            continue
        delta = cart.operate(states[here], name, elements, (FRANKFURT, TOKYO)[here])
        states[here] = cart.merge(states[here], delta or cart.empty())
        named = {(element, at) for element, at in added if element in elements}
        fresh = {(element, step) for element in elements} if name == "$add" else set()
        oracles[here] = (added | fresh, removed | named)
    for state, (added, removed) in zip(states, oracles, strict=True):
        assert cart.value(state) == sorted({element for element, _ in added - removed})
