from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from atoll.errors import Unavailable
from atoll.region.event_queue import EventLimits
from atoll.schema.system import EVENTS

from ..virtual_time import in_virtual_time
from .world import World

ON: dict[str, Any] = {"events_most": 10_000, "housekeeping_s": 1e9}


async def timeline(it: World, name: str) -> list[tuple[str, str, str]]:
    """(kind, region, peer), in order."""
    found = []
    for _, row in await it.stores[name].scan_all(EVENTS, limit=10_000):
        event = msgspec.json.decode(row.value or b"")
        found.append((event["kind"], event["region"], event["peer"]))
    return found


@in_virtual_time
async def test_starts_are_events_and_their_links_are_not() -> None:
    async with World(**ON) as it:
        await asyncio.sleep(30)
        await it.settled()
        for name in it.names:
            assert sorted(await timeline(it, name)) == [("region-started", each, "") for each in "abc"]
        assert await timeline(it, "a") == await timeline(it, "b") == await timeline(it, "c")


@in_virtual_time
async def test_a_cut_and_a_healed_link_appear_once_in_every_region() -> None:
    async with World(**ON) as it:
        await asyncio.sleep(10)
        it.partition("ab")
        await asyncio.sleep(20)
        it.partition()
        await asyncio.sleep(20)
        await it.settled()
        found = await timeline(it, "c")
        assert sorted(found[3:5]) == [("link-down", "a", "b"), ("link-down", "b", "a")]
        assert sorted(found[5:]) == [("link-up", "a", "b"), ("link-up", "b", "a")]
        assert await timeline(it, "a") == await timeline(it, "b") == found
        digests = [(await it[name].digests.of(EVENTS)).digests for name in it.names]
        assert digests[0] == digests[1] == digests[2]


@in_virtual_time
async def test_a_link_that_flaps_makes_no_storm() -> None:
    async with World(**ON) as it:
        await asyncio.sleep(10)
        for _ in range(30):
            it.partition("ab")
            await asyncio.sleep(4)
            it.partition()
            await asyncio.sleep(3)
        await asyncio.sleep(10)
        found = [each for each in await timeline(it, "a") if each[1] == "a"]
        assert 3 <= found.count(("link-flapping", "a", "b")) <= 4
        assert len(found) <= 7


@in_virtual_time
async def test_an_event_waits_while_the_region_refuses_writes() -> None:
    async with World(**ON) as it:
        await asyncio.sleep(10)
        writes = it["a"].events._write
        refused = 0

        async def refuse(write: object) -> None:
            nonlocal refused
            refused += 1
            raise Unavailable("not now")

        it["a"].events._write = refuse
        it["a"].events.record("restored")
        await asyncio.sleep(10)
        for _ in range(5):
            it["a"].events.record("failed-over")
        it["a"].events._write = writes
        await asyncio.sleep(5)
        assert refused > 5
        assert [kind for kind, _, _ in await timeline(it, "a")][3:] == ["restored", "failed-over"]
        assert it["a"].events.written["failed-over"] == 1


@in_virtual_time
async def test_what_is_left_out_is_said() -> None:
    limits = EventLimits(burst=1, every_s=100.0, most_waiting=1)
    async with World("a", **ON, events=limits) as it:
        await asyncio.sleep(10)
        it["a"].events.record("restored")
        for peer in ("b", "c"):
            it["a"].events.record("change-parked", peer=peer)
        await asyncio.sleep(200)
        rows = [msgspec.json.decode(row.value or b"") for _, row in await it.stores["a"].scan_all(EVENTS)]
        assert [(row["kind"], row["left_out"]) for row in rows] == [("region-started", 0), ("restored", 2)]
        assert it["a"].events.left_out == 2


@in_virtual_time
async def test_a_region_that_keeps_none_records_none() -> None:
    async with World() as it:
        it["a"].events.record("restored")
        await asyncio.sleep(60)
        assert await timeline(it, "a") == []
