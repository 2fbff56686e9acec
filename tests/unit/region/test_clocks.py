from __future__ import annotations

import asyncio

import pytest

from atoll.errors import ClockUnsafe
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_clock_far_off_takes_its_region_out_of_service() -> None:
    async with World(skew_ms={"a": 2000}) as it:
        await asyncio.sleep(3)
        assert "outside what its peers can agree on" in (it["a"].gates.closed or "")
        with pytest.raises(ClockUnsafe, match="clock of a"):
            await it.write("a", "note", "k", {})
        assert it["b"].gates.closed is None
        await it.write("b", "note", "k", {})


@in_virtual_time
async def test_a_clock_that_was_set_right_serves_again() -> None:
    async with World(skew_ms={"a": 2000}) as it:
        await asyncio.sleep(3)
        it.skew_ms["a"] = 0
        await asyncio.sleep(30)
        assert it["a"].gates.closed is None
        await it.write("a", "note", "k", {})
        await it.settled()


HOURS_MS = 2 * 3600 * 1000


@in_virtual_time
async def test_of_two_regions_the_one_hours_ahead_takes_no_writes() -> None:
    async with World("a", "b", skew_ms={"b": HOURS_MS}) as it:
        await asyncio.sleep(3)
        assert "ahead of every peer's" in (it["b"].health_of("serving") or "")
        assert it["b"].health_of("reading") is None
        with pytest.raises(ClockUnsafe, match="set right the clock that is wrong"):
            await it.write("b", "note", "k", {})
        assert it["a"].health_of("serving") is None
        await it.write("a", "note", "k", {})
        await it.settled()
        (told,), (other,) = it["a"].status().warnings, it["b"].status().warnings
        assert f"the clock of b is {HOURS_MS} ms ahead of the one of a" in told
        assert f"the clock of a is {HOURS_MS} ms behind the one of b" in other


@in_virtual_time
async def test_of_two_regions_one_a_little_too_far_ahead_goes_on_and_warns() -> None:
    async with World("a", "b", skew_ms={"b": 900}) as it:
        await asyncio.sleep(3)
        await it.write("b", "note", "k", {})
        assert len(it["b"].status().warnings) == 1
        await it.settled()


@pytest.mark.parametrize("right_ms", [0, HOURS_MS])
@in_virtual_time
async def test_two_regions_go_on_once_either_clock_is_set_right(right_ms: int) -> None:
    async with World("a", "b", skew_ms={"b": HOURS_MS}) as it:
        await asyncio.sleep(3)
        it.skew_ms = {"a": right_ms, "b": right_ms}
        await asyncio.sleep(30)
        for name in it.names:
            assert (it[name].gates.closed, it[name].status().warnings) == (None, [])
            await it.write(name, "note", name, {})
        await it.settled()


@in_virtual_time
async def test_a_clock_that_a_time_service_keeps_is_trusted_however_late_the_other_is() -> None:
    world = World("a", "b", skew_ms={"b": HOURS_MS})
    world.kernel_uncertainty_ms = 20
    async with world as it:
        await asyncio.sleep(3)
        await it.write("b", "note", "k", {})
        await asyncio.sleep(3)
        assert "entries are held back: the stamp" in (it["a"].health_of("ready") or "")
        it.skew_ms["a"] = HOURS_MS
        await it.settled()
        assert it["a"].health_of("ready") is None


@in_virtual_time
async def test_what_its_region_gave_up_is_held_back_no_more() -> None:
    world = World("a", "b", skew_ms={"b": 60_000})
    world.kernel_uncertainty_ms = 20
    async with world as it:
        await asyncio.sleep(3)
        await it.write("b", "note", "k", {"text": "of the future"})
        await asyncio.sleep(3)
        assert it["a"].status().inbox.held is not None
        await it["b"].stop()
        it.skew_ms["b"], it.stores["b"] = 0, MemoryStore()
        await it.create("b").start()
        await asyncio.sleep(30)
        assert (it["a"].status().inbox.held, it["a"].health_of("ready")) == (None, None)
        for name in it.names:
            await it.write(name, "note", "k", {"text": name})
        await asyncio.sleep(60)
        await it.settled()
        assert await it["a"].shown("note", "k") == b'{"text":"b"}'


@in_virtual_time
async def test_a_clock_a_little_off_goes_on() -> None:
    async with World(skew_ms={"a": 300, "b": -100}) as it:
        await asyncio.sleep(3)
        for name in it.names:
            await it.write(name, "note", name, {})
        await it.settled()
        assert 0 < it["a"].clocks.uncertainty_ms <= 500


@in_virtual_time
async def test_a_region_alone_trusts_its_own_clock() -> None:
    async with World("a") as it:
        await it.write("a", "note", "k", {})
        assert it["a"].health_of("ready") is None
        assert it["a"].waits.staleness_s() == 0.0
        assert it["a"].gates.closed is None
