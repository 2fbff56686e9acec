from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import HostileEntry, InvalidOperation
from atoll.lattices.base import Actor
from atoll.lattices.counter import CounterLattice

REGIONS = ("frankfurt", "tokyo")
FRANKFURT, TOKYO = (Actor(region, REGIONS) for region in REGIONS)
LARGEST = 2**63 - 1

counter = CounterLattice()


def after(*deltas: Any) -> Any:
    state = counter.empty()
    for delta in deltas:
        state = counter.merge(state, delta)
    return state


def test_concurrent_increments_add_up() -> None:
    up = counter.operate({}, "$inc", 5, FRANKFURT)
    down = counter.operate({}, "$inc", -3, TOKYO)
    assert counter.value(after(up, down)) == 2


def test_write_of_a_value_keeps_concurrent_increments() -> None:
    seen = after(counter.operate({}, "$inc", 10, FRANKFURT))
    written = counter.difference(seen, 4, TOKYO)
    meanwhile = counter.operate(seen, "$inc", 1, FRANKFURT)
    assert counter.value(after(seen, written, meanwhile)) == 5


def test_nothing_to_change_is_no_delta() -> None:
    state = after(counter.operate({}, "$inc", 7, TOKYO))
    assert counter.operate(state, "$inc", 0, TOKYO) is None
    assert counter.difference(state, 7, TOKYO) is None


@pytest.mark.parametrize("argument", [True, 1.0, "1", None, [1], 2**63, -(2**63) - 1])
def test_increment_takes_integers_of_64_bits_only(argument: Any) -> None:
    with pytest.raises(InvalidOperation):
        counter.operate({}, "$inc", argument, TOKYO)


def test_local_sum_beyond_64_bits_is_refused() -> None:
    state = after(counter.operate({}, "$inc", LARGEST, TOKYO))
    with pytest.raises(InvalidOperation, match="64 bits"):
        counter.operate(state, "$inc", 1, TOKYO)


def test_concurrent_sum_beyond_64_bits_shows_the_limit() -> None:
    ups = [counter.operate({}, "$inc", LARGEST, actor) for actor in (FRANKFURT, TOKYO)]
    beyond = after(*ups)
    assert counter.value(beyond) == LARGEST
    assert counter.value(counter.merge(beyond, counter.difference(beyond, 5, TOKYO))) == 5


def test_a_region_that_used_up_its_sums_is_told() -> None:
    state = counter.empty()
    for amount in (LARGEST, -LARGEST, LARGEST, -LARGEST):
        state = counter.merge(state, counter.operate(state, "$inc", amount, TOKYO) or {})
    with pytest.raises(InvalidOperation, match="new document"):
        counter.operate(state, "$inc", 2, TOKYO)


def test_other_operators_are_refused() -> None:
    with pytest.raises(InvalidOperation, match=r"\$inc"):
        counter.operate({}, "$add", [1], TOKYO)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x81\xa5Tokyo\x92\x01\x00", b"\x81\xa1a\x92\x01\xff"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(HostileEntry):
        counter.decode(data)
