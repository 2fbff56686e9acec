from __future__ import annotations

import asyncio

import pytest

from atoll.errors import ClockUnsafe

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
