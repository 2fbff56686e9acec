from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.simulation.linearizability import Operation, linearizable


def write(value: Any, called_s: float, returned_s: float = math.inf) -> Operation:
    return Operation(True, value, called_s, returned_s)


def read(value: Any, called_s: float, returned_s: float) -> Operation:
    return Operation(False, value, called_s, returned_s)


@pytest.mark.parametrize(
    ("history", "possible"),
    [
        ([], True),
        ([read(None, 0, 1)], True),
        ([read(1, 0, 1)], False),
        ([write(1, 0, 1), read(1, 2, 3)], True),
        ([write(1, 0, 1), read(None, 2, 3)], False),
        ([write(1, 0, 5), read(None, 1, 2), read(1, 3, 4)], True),
        ([write(1, 0, 5), read(1, 1, 2), read(None, 3, 4)], False),
        ([write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)], False),
        ([write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)], True),
        ([write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4), read(2, 5, 6)], False),
        ([write(1, 0), read(1, 5, 6)], True),
        ([write(1, 0), read(None, 5, 6)], True),
        ([write(1, 0), read(1, 1, 2), read(None, 5, 6)], False),
        ([write(1, 3), read(1, 1, 2)], False),
    ],
)
def test_an_order_is_found_where_there_is_one(history: list[Operation], possible: bool) -> None:
    assert linearizable(history) is possible


def by_definition(history: list[Operation]) -> bool:
    """Try every order."""
    for order in permutations(history):
        if any(
            later.returned_s < earlier.called_s
            for number, earlier in enumerate(order)
            for later in order[number:]
        ):
            continue
        value = None
        for each in order:
            if each.write:
                value = each.value
            elif each.value != value:
                break
        else:
            return True
    return False


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 9), st.integers(1, 6)), max_size=5)
)
def test_it_agrees_with_trying_every_order(drawn: list[tuple[bool, int, int, int]]) -> None:
    history = [
        Operation(written, value or None, called_s, called_s + lasted_s)
        for written, value, called_s, lasted_s in drawn
    ]
    assert linearizable(history) is by_definition(history)
