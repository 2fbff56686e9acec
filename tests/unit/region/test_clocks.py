from __future__ import annotations

import asyncio

import pytest

from atoll.errors import ClockUnsafe
from atoll.replication.messages import Call, PingCall, Reply
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import START_MS, World


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


@in_virtual_time
async def test_a_step_of_the_clock_closes_the_region_at_once() -> None:
    async with World(skew_ms={"b": 5}) as it:
        await asyncio.sleep(3)
        it.skew_ms["a"] = 2000
        with pytest.raises(ClockUnsafe, match="clock of a"):
            await it.write("a", "note", "k", {})
        it.skew_ms["a"] = 0
        assert it["a"].health_of("serving") is None
        await it.write("a", "note", "k", {})


@in_virtual_time
async def test_an_exchange_during_which_the_clock_was_set_says_nothing() -> None:
    async with World("a", "b", distance_s=0.0) as it:
        answer = it["b"].answer

        async def answer_late(call: Call) -> Reply:
            reply = await answer(call)
            if isinstance(call, PingCall):
                await asyncio.sleep(0.4)
                it.skew_ms["a"] -= 300
            return reply

        it.skew_ms["a"] = 0
        it["b"].answer = answer_late  # type: ignore[method-assign]
        await asyncio.sleep(1.5)
        assert it["a"].clocks.offset("b") is None


@in_virtual_time
async def test_a_clock_that_peers_cannot_prove_near_enough_leaves_service_and_comes_back() -> None:
    """The peers are that far away, and the own kernel says nothing."""
    world = World("a", "b", skew_ms={"a": 450}, require_synchronised_clocks=True)
    world.kernels_ms = {"a": None, "b": 100}
    async with world as it:
        await asyncio.sleep(3)
        assert "may be 5" in (it["a"].health_of("serving") or "")
        assert it["a"].health_of("reading") is None
        with pytest.raises(ClockUnsafe, match="more than max_clock_offset_ms = 500"):
            await it.write("a", "note", "k", {})
        await it.write("b", "note", "k", {})
        it.skew_ms["a"] = 100
        assert it["a"].health_of("serving") is None
        await it.write("a", "note", "k", {})
        await it.settled()


@pytest.mark.parametrize("kernel_ms", [None, 501])
@in_virtual_time
async def test_where_proof_is_required_a_clock_without_it_takes_no_writes(kernel_ms: int | None) -> None:
    world = World("a", require_synchronised_clocks=True)
    world.kernel_uncertainty_ms = kernel_ms
    async with world as it:
        with pytest.raises(ClockUnsafe, match="look at NTP"):
            await it.write("a", "note", "k", {})
        world.kernel_uncertainty_ms = 20
        await asyncio.sleep(0.2)
        await it.write("a", "note", "k", {})


@pytest.mark.parametrize("kernel_ms", [None, 501])
@in_virtual_time
async def test_a_clock_that_nothing_proves_serves_and_is_told(kernel_ms: int | None) -> None:
    world = World("a")
    world.kernel_uncertainty_ms = kernel_ms
    async with world as it:
        await it.write("a", "note", "k", {})
        clock = it["a"].status().clock
        assert (clock.assumed, clock.kernel_ms, clock.error_ms, clock.most_ms) == (True, kernel_ms, 500, 500)
        assert clock.synchronised == (kernel_ms is not None)


@in_virtual_time
async def test_interval_holds_the_time_and_is_as_narrow_as_the_proof() -> None:
    world = World(skew_ms={"a": 40, "b": -30, "c": 10})
    world.kernels_ms = {"a": None, "b": 35, "c": None}
    async with world as it:
        await asyncio.sleep(3)
        time_ms = START_MS + asyncio.get_running_loop().time() * 1000
        for name in it.names:
            interval = it[name].clock_interval()
            assert interval.earliest <= time_ms <= interval.latest
            assert interval.latest - interval.earliest < 120
            assert not it[name].status().clock.assumed
