from __future__ import annotations

import asyncio

import pytest

from atoll.errors import TokenNotReached, TooStale
from atoll.region.reading import ReadOptions

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_read_that_waits_in_vain_says_what_is_missing() -> None:
    async with World() as it:
        it.partition("ab", "ac", "bc")
        began = asyncio.get_running_loop().time()
        with pytest.raises(TokenNotReached, match="a up to 9") as caught:
            await it["b"].read("note", "k", ReadOptions(token={"a": 9}, max_wait_s=2.5))
        assert caught.value.details == {"missing": {"a": 9}}
        assert asyncio.get_running_loop().time() - began == pytest.approx(2.5)


@in_virtual_time
async def test_nobody_may_wait_for_ever() -> None:
    async with World() as it:
        it.partition("ab", "ac", "bc")
        began = asyncio.get_running_loop().time()
        assert not await it["b"].waits.wait_for({"a": 9}, max_wait_s=1e6)
        assert asyncio.get_running_loop().time() - began == pytest.approx(30)


@in_virtual_time
async def test_a_bounded_read_is_served_while_the_lag_is_known_to_be_small() -> None:
    async with World() as it:
        await it.settled()
        await asyncio.sleep(1)
        assert (await it["a"].read("price", "k")).degraded is None
        assert it["a"].waits.staleness_s() <= 0.3


@in_virtual_time
async def test_a_bounded_read_is_refused_when_cut_off() -> None:
    async with World() as it:
        await asyncio.sleep(1)
        it.partition("ab", "ac")
        await asyncio.sleep(5)
        with pytest.raises(TooStale, match="may lag by") as caught:
            await it["a"].read("price", "k")
        assert caught.value.details["lag_s"] > 5
        assert (await it["a"].read("price", "k", ReadOptions("eventual"))).region == "a"
        await it["a"].read("price", "k", ReadOptions(max_staleness_s=60))


@pytest.mark.parametrize("level", [None, "eventual", "session", "causal"])
@in_virtual_time
async def test_a_bound_that_is_asked_for_holds_at_every_level(level: str | None) -> None:
    async with World() as it:
        it.partition("ab", "ac")
        await asyncio.sleep(5)
        with pytest.raises(TooStale):
            await it["a"].read("like", "k", ReadOptions(level, max_staleness_s=1.0, max_wait_s=0.0))


@in_virtual_time
async def test_a_region_that_heard_nothing_may_be_endlessly_stale() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        assert it["a"].waits.staleness_s() == float("inf")
        with pytest.raises(TooStale) as caught:
            await it["a"].read("price", "k")
        assert caught.value.details == {"lag_s": None}
