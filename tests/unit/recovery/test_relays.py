from __future__ import annotations

import asyncio
from collections.abc import Mapping

from atoll.protocol import port
from atoll.recovery.relays import AFTER_S, RelayState, step

from ..region.world import World
from ..virtual_time import in_virtual_time


class Node:
    """A node of region a."""

    def __init__(self) -> None:
        self.state = RelayState("a")
        self.here: dict[str, int] = {}
        self.now_s = 0.0

    def hears(self, peer: str, announced: Mapping[str, int]) -> tuple[port.Effect, ...]:
        self.state, effects = step(self.state, port.Heard(peer, announced, dict(self.here)), self.now_s)
        return effects

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_peer_that_holds_what_its_origin_has_lost_is_asked_for_it() -> None:
    it = Node()
    it.here = {"b": 3}
    it.hears("b", {"b": 3})  # it has lost the rest
    assert it.hears("c", {"b": 5, "c": 1}) == ()
    it.passes(AFTER_S)
    assert it.hears("c", {"b": 5, "c": 1}) == (port.ReviewLinks(),)
    assert it.state.asked == {("c", "b")}


def test_what_a_region_said_of_itself_bounds_nobody_once_it_has_left() -> None:
    it = Node()
    it.here = {"b": 3}
    it.hears("b", {"b": 3})
    it.hears("c", {"b": 3})
    it.hears("d", {"b": 5})
    it.state, effects = step(it.state, port.MembersChanged(frozenset({"c"})), it.now_s)
    assert effects == ()
    assert (it.state.itself, it.state.noticed) == ({}, {})
    it.hears("c", {"b": 5})
    it.passes(AFTER_S)
    assert it.hears("c", {"b": 5}) == (port.ReviewLinks(),)


def test_a_peer_is_asked_for_what_this_region_itself_has_lost() -> None:
    it = Node()
    it.hears("c", {"a": 5})
    it.passes(AFTER_S)
    it.hears("c", {"a": 5})
    assert it.state.asked == {("c", "a")}


def test_what_a_region_no_longer_announces_of_itself_is_asked_of_others() -> None:
    """It lost its disk, and numbers under another origin now."""
    it = Node()
    it.here = {"b": 3}
    it.hears("b", {"b": 5})
    it.hears("b", {"b~7": 1})
    it.hears("c", {"b": 5})
    it.passes(AFTER_S)
    assert it.hears("c", {"b": 5}) == (port.ReviewLinks(),)


def test_a_peer_that_is_faster_than_the_origin_is_not_asked() -> None:
    it = Node()
    for seq in range(1, 50):
        it.hears("c", {"b": seq})
        it.passes(AFTER_S / 5)
        it.here = {"b": seq}  # from b itself
        it.hears("b", {"b": seq})
    assert it.state.asked == frozenset()


def test_an_origin_that_falls_behind_and_goes_on_is_not_pulled_twice() -> None:
    it = Node()
    for seq in range(1, 50):
        it.here = {"b": seq}
        it.hears("b", {"b": seq})
        it.hears("c", {"b": seq + 1000})
        it.passes(AFTER_S / 2)
    assert it.state.asked == frozenset()


def test_a_relay_goes_on_until_it_is_not_needed() -> None:
    it = Node()
    it.hears("c", {"b": 5})
    it.passes(AFTER_S)
    it.hears("c", {"b": 5})
    for seq in range(1, 5):
        it.here = {"b": seq}
        assert it.hears("c", {"b": 5}) == ()
        assert it.state.asked == {("c", "b")}
    it.here = {"b": 5}
    assert it.hears("c", {"b": 5}) == (port.ReviewLinks(),)
    assert it.state.asked == frozenset()


def test_what_a_region_announced_before_it_left_holds_nobody_back() -> None:
    it = Node()
    it.here = {"b": 3}
    it.hears("b", {"b": 5})  # and it leaves before the last two have come
    it.hears("c", {"b": 5})
    it.state, _ = step(it.state, port.MembersChanged(frozenset("c")), it.now_s)
    it.hears("c", {"b": 5})
    it.passes(AFTER_S)
    it.hears("c", {"b": 5})
    assert it.state.asked == {("c", "b")}
    it.state, _ = step(it.state, port.MembersChanged(frozenset("d")), it.now_s)
    assert it.state.asked == frozenset()


@in_virtual_time
async def test_a_link_that_is_too_busy_for_heartbeats_is_looked_at_as_entries_come() -> None:
    """Found by seed 930000098 with fourteen clients, over a slow link with a long backlog."""
    async with World(heartbeat_s=1e9) as it:
        await asyncio.sleep(1)
        region, relays = it["a"], it["a"]._relays
        relays.post(port.Heard("b", {"c": 5}, region.vector))
        await asyncio.sleep(2 * AFTER_S)
        assert relays.state.asked == frozenset()
        region.links["b"].status.advertised = {"c": 5}
        region.deliver([], "b")
        await asyncio.sleep(0.01)
        assert relays.state.asked == {("b", "c")}


def test_a_floor_is_nothing_to_be_asked_for() -> None:
    it = Node()
    for _ in range(2):
        assert it.hears("c", {"b~": 5, "c": 0}) == ()
        it.passes(AFTER_S)
    assert not it.state.noticed
    assert not it.state.asked
