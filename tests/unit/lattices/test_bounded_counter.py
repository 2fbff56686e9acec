from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import BoundExceeded, InvalidOperation
from atoll.lattices.base import Actor
from atoll.lattices.bounded_counter import BoundedCounterLattice

REGIONS = ("frankfurt", "tokyo", "virginia")
ACTORS = {region: Actor(region, REGIONS) for region in REGIONS}
FRANKFURT, TOKYO, VIRGINIA = ACTORS.values()

stock = BoundedCounterLattice()


def created(lattice: BoundedCounterLattice, amount: int, actor: Actor = TOKYO) -> Any:
    return lattice.merge(lattice.empty(), lattice.difference(lattice.empty(), amount, actor) or {})


def held(lattice: BoundedCounterLattice, state: Any) -> list[int]:
    return [lattice.rights(state, region) for region in REGIONS]


def test_first_write_splits_the_rights_and_leaves_the_remainder_here() -> None:
    assert held(stock, created(stock, 11)) == [3, 5, 3]


def test_creator_policy_leaves_all_rights_here() -> None:
    assert held(
        BoundedCounterLattice(split="creator"), created(BoundedCounterLattice(split="creator"), 11)
    ) == [
        0,
        11,
        0,
    ]


def test_restock_is_split_too() -> None:
    state = created(stock, 9)
    restocked = stock.merge(state, stock.operate(state, "$inc", 7, VIRGINIA) or {})
    assert held(stock, restocked) == [5, 5, 6]
    assert stock.value(restocked) == 16


def test_spending_more_than_is_held_here_says_what_is_left() -> None:
    state = created(stock, 9)
    with pytest.raises(BoundExceeded) as refused:
        stock.operate(state, "$inc", -4, TOKYO)
    assert refused.value.details == {"wanted": 4, "left_here": 3, "left_in_all": 9}


def test_rights_of_regions_that_have_left_are_said_to_be_theirs() -> None:
    state = created(stock, 9)
    left = Actor("tokyo", ("frankfurt", "tokyo"))
    with pytest.raises(BoundExceeded, match=r"; 3 are held by regions that have left, until") as refused:
        stock.operate(state, "$inc", -7, left)
    assert refused.value.details == {"wanted": 7, "left_here": 3, "left_in_all": 9, "left_behind": 3}
    with pytest.raises(BoundExceeded, match="or move rights here first") as refused:
        stock.operate(state, "$inc", -6, left)
    assert "left_behind" not in refused.value.details


def test_rights_that_arrive_by_transfer_can_be_spent() -> None:
    state = created(stock, 9)
    state = stock.merge(state, stock.transfer(state, FRANKFURT, "tokyo", 2))
    state = stock.merge(state, stock.operate(state, "$inc", -5, TOKYO) or {})
    assert held(stock, state) == [1, 0, 3]
    assert stock.value(state) == 4


def test_transfer_of_more_than_is_held_is_refused() -> None:
    with pytest.raises(BoundExceeded):
        stock.transfer(created(stock, 9), FRANKFURT, "tokyo", 4)


@pytest.mark.parametrize("amount", [0, -1, True, 1.0])
def test_transfer_takes_positive_amounts(amount: Any) -> None:
    with pytest.raises(InvalidOperation):
        stock.transfer(created(stock, 9), FRANKFURT, "tokyo", amount)


def test_write_below_the_minimum_is_refused() -> None:
    lattice = BoundedCounterLattice(minimum=10, split="creator")
    state = created(lattice, 12)
    assert lattice.value(lattice.empty()) == 10
    assert lattice.value(lattice.merge(state, lattice.difference(state, 10, TOKYO) or {})) == 10
    with pytest.raises(BoundExceeded):
        lattice.difference(state, 9, TOKYO)


def test_spend_seen_before_its_creation_shows_the_minimum() -> None:
    state = created(stock, 9)
    spent = stock.operate(state, "$inc", -3, FRANKFURT) or {}
    assert stock.value(spent) == 0
    assert stock.value(stock.merge(spent, state)) == 6


region = st.sampled_from(REGIONS)
steps = st.lists(
    st.tuples(st.just("inc"), region, st.integers(-8, 8))
    | st.tuples(st.just("give"), region, region, st.integers(1, 8))
    | st.tuples(st.just("pull"), region, region),
    max_size=40,
)


@given(history=steps, minimum=st.integers(-3, 3), split=st.sampled_from(["equal", "creator"]))
def test_no_interleaving_goes_below_the_bound(history: list[Any], minimum: int, split: Any) -> None:
    lattice = BoundedCounterLattice(minimum, split)
    states = dict.fromkeys(REGIONS, created(lattice, minimum + 10))
    expected = minimum + 10
    for name, here, *rest in history:
        state = states[here]
        try:
            match name:
                case "inc":
                    delta = lattice.operate(state, "$inc", rest[0], ACTORS[here]) or {}
                    expected += rest[0]
                case "give" if here != rest[0]:
                    delta = lattice.transfer(state, ACTORS[here], *rest)
                case _:
                    delta = states[rest[0]]
        except BoundExceeded:
            continue
        states[here] = lattice.merge(state, delta)
        assert lattice.value(states[here]) >= minimum
    everything = lattice.empty()
    for state in states.values():
        everything = lattice.merge(everything, state)
    assert lattice.value(everything) == expected >= minimum
    assert sum(held(lattice, everything)) == expected - minimum
