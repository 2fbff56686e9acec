from __future__ import annotations

import asyncio

import pytest

from atoll.errors import ConfigError, Unavailable
from atoll.membership.members import Membership
from atoll.recovery.restore import RESTORED

from ..virtual_time import in_virtual_time
from .world import World

PAIR = Membership.of("ab")


class Growing(World):
    """Regions a and b run; c is known to the test alone."""

    def __init__(self, **options: object) -> None:
        super().__init__("a", "b", **options)

    async def join(self, name: str) -> Membership:
        self.stores[name] = type(self.stores["a"])()
        grown = self["a"].members.current.with_region(name)
        self.names = grown.regions
        for region in list(self.regions.values()):
            await region.change_members(grown)
        await self.create(name).start()
        return grown

    async def leave(self, name: str, *names: str) -> None:
        """Those that are named follow the membership without it; the region itself is gone."""
        await self[name].stop()
        del self.regions[name]
        for each in names:
            await self[each].change_members(self[each].members.current.without(name))


@in_virtual_time
async def test_a_region_that_joins_a_running_pair_converges_with_it() -> None:
    async with Growing() as it:
        await it.write("a", "note", "k", {"text": "before"})
        await it.settled()
        await it.join("c")
        await it.write("c", "note", "c", {"text": "from c"})
        await it.write("b", "like", "k", {"$inc": {"count": 1}})
        await it.settled()
        for name in "abc":
            assert it.shown(name, "note", "k") == {"text": "before"}
            assert it.shown(name, "note", "c") == {"text": "from c"}
            assert it[name].regions == ("a", "b", "c")
        await asyncio.sleep(3)
        assert all(it[name].health_of(check) is None for name in "abc" for check in ("ready", "serving"))  # type: ignore[arg-type]


@in_virtual_time
async def test_nobody_waits_for_a_region_that_has_left() -> None:
    async with World(journal_s=0.0, journal_round_s=1.0) as it:
        await it.write("c", "note", "c", {"text": "from c"})
        await it.settled()
        await asyncio.sleep(3)
        await it["c"].stop()
        del it.regions["c"]
        for _ in range(4):
            await it.write("a", "note", "k", {})
        await asyncio.sleep(5)
        assert it["a"].waits.staleness_s() > 4
        kept = it["a"].truncation.extent.segments
        assert kept > 1  # c may still come for them
        for name in "ab":
            await it[name].change_members(it[name].members.current.without("c"))
        await asyncio.sleep(5)
        assert it["a"].waits.staleness_s() < 1
        assert it["a"].truncation.extent.segments < kept
        assert it["a"].health_of("ready") is it["a"].health_of("serving") is None
        await it.write("a", "note", "more", {})
        await it.settled()
        assert it.shown("b", "note", "c") == {"text": "from c"}


@in_virtual_time
async def test_a_start_waits_no_longer_for_a_region_that_leaves_meanwhile() -> None:
    async with World(startup_check_s=1e6) as it:
        await it.write("a", "note", "k", {})
        await it.settled()
        await it["c"].stop()
        del it.regions["c"]
        await it["a"].stop()
        await it.create("a").start()
        await asyncio.sleep(5)
        assert "waits for c" in (it["a"].health_of("serving") or "")
        await it["a"].change_members(it["a"].members.current.without("c"))
        await it.write("a", "note", "k", {})
        assert it["a"].health_of("serving") is None


@in_virtual_time
async def test_a_restored_region_waits_no_longer_for_one_that_leaves_meanwhile() -> None:
    async with World() as it:
        await it["c"].stop()
        del it.regions["c"]
        await it["a"].stop()
        await it.stores["a"].raise_counter(RESTORED, 1)
        await it.create("a").start()
        await asyncio.sleep(5)
        with pytest.raises(Unavailable, match="waits for c"):
            await it["a"].read("note", "k")
        await it["a"].change_members(it["a"].members.current.without("c"))
        await asyncio.sleep(1)
        assert (await it["a"].read("note", "k")).value is None


@in_virtual_time
async def test_a_membership_that_does_not_come_next_is_refused() -> None:
    async with World("a", "b") as it:
        with pytest.raises(ConfigError, match="does not come after"):
            await it["a"].change_members(PAIR)
        with pytest.raises(ConfigError, match="lacks a"):
            await it["a"].change_members(PAIR.without("a"))
        assert it["a"].members.current == PAIR


def test_a_membership_is_a_value() -> None:
    grown = PAIR.with_region("c")
    assert grown == Membership(2, ("a", "b", "c"))
    assert grown.without("b") == Membership(3, ("a", "c"), ("b",))
    assert grown.without("b").origins == {"a", "b", "c"}
    assert grown.without("b").with_region("b") == Membership(4, ("a", "b", "c"))
