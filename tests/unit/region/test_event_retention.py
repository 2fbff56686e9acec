from __future__ import annotations

import asyncio

from atoll.schema.system import EVENTS

from ..virtual_time import in_virtual_time
from .world import World


async def kept(it: World, name: str) -> list[str]:
    return [key for key, _ in await it.stores[name].scan_all(EVENTS)]


async def digests(it: World) -> list[dict[str, bytes]]:
    return [(await it[name].digests.of(EVENTS)).digests for name in it.names]


@in_virtual_time
async def test_regions_that_remove_at_other_times_agree_always() -> None:
    async with World(events_most=4, events_round_s=1e9) as it:
        await asyncio.sleep(10)
        for number in range(6):
            it["abc"[number % 3]].events.record("restored")
            await asyncio.sleep(2)
        await it.settled()
        assert [len(await kept(it, name)) for name in it.names] == [9, 9, 9]
        assert await it["a"].event_retention.round() == 5
        assert len(await kept(it, "a")) == 4
        assert len(set(map(str, await digests(it)))) == 1
        assert await it["b"].event_retention.round() == 5
        assert await kept(it, "b") == await kept(it, "a") == (await kept(it, "c"))[5:]
        assert (await it.stores["a"].statistics()).tombstones[EVENTS] == 0


@in_virtual_time
async def test_a_late_event_past_the_horizon_goes_again() -> None:
    async with World(events_most=100, events_s=60.0, events_round_s=1e9) as it:
        await asyncio.sleep(10)
        it.partition("ab", "ac")
        it["a"].events.record("restored")
        await asyncio.sleep(100)
        it["b"].events.record("restored")
        await asyncio.sleep(10)
        await it["b"].event_retention.round()
        before = await kept(it, "b")
        it.partition()
        await it.settled()
        assert len(await kept(it, "b")) > len(before)
        assert len(set(map(str, await digests(it)))) == 1
        for name in it.names:
            await it[name].event_retention.round()
        assert await kept(it, "a") == await kept(it, "b") == await kept(it, "c")


@in_virtual_time
async def test_retention_runs_by_itself() -> None:
    async with World(events_most=1, events_round_s=60.0) as it:
        await asyncio.sleep(130)
        assert [len(await kept(it, name)) for name in it.names] == [1, 1, 1]
