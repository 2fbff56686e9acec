from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll.schema.system import EVENTS

from ..virtual_time import in_virtual_time
from .served import Served

ON: dict[str, Any] = {"events_most": 100, "events_round_s": 1e9}


async def recorded(it: Served, count: int = 5) -> None:
    await asyncio.sleep(10)
    for number in range(count):
        it["ab"[number % 2]].events.record("change-parked", peer="c", detail=str(number))
        await asyncio.sleep(2)
    await it.settled()


async def listed(it: Served, region: str = "a", **query: str) -> list[dict[str, Any]]:
    answer = await it.ask("GET", "/v1/events", query=query, region=region)
    assert answer.status == 200, answer.json
    items: list[dict[str, Any]] = answer.json["items"]
    return items


@in_virtual_time
async def test_every_region_lists_the_same_in_order() -> None:
    async with Served("a", "b", **ON) as it:
        await recorded(it)
        found = await listed(it)
        assert await listed(it, "b") == found
        assert [each["id"] for each in found] == sorted(each["id"] for each in found)
        assert [each["detail"] for each in found[2:]] == ["0", "1", "2", "3", "4"]
        assert {each["kind"] for each in found[:2]} == {"region-started"}
        assert set(found[2]) == {
            *("id", "at", "seq", "kind", "region", "node", "peer", "at_ms", "detail", "count", "left_out")
        }


@in_virtual_time
async def test_pages_follow_each_other() -> None:
    async with Served("a", "b", **ON) as it:
        await recorded(it)
        found, query = [], {"limit": "2"}
        while True:
            page = (await it.ask("GET", "/v1/events", query=query)).json
            assert len(page["items"]) <= 2
            found += page["items"]
            if page["cursor"] is None:
                break
            query["cursor"] = page["cursor"]
        assert found == await listed(it)


@in_virtual_time
async def test_a_listing_is_narrowed() -> None:
    async with Served("a", "b", **ON) as it:
        await recorded(it)
        assert {each["region"] for each in await listed(it, kind="region-started")} == {"a", "b"}
        of_b = (await it.ask("GET", "/v1/events", query={"region": "b"})).json["items"]
        assert [each["region"] for each in of_b] == ["b"] * 3
        assert {each["kind"] for each in await listed(it, kind="change-parked")} == {"change-parked"}
        everything = await listed(it)
        later = await listed(it, since=str(everything[4]["at_ms"]))
        assert later == everything[4:]
        assert await listed(it, kind="restored") == []


@in_virtual_time
async def test_what_retention_does_not_keep_is_not_listed() -> None:
    async with Served("a", "b", **{**ON, "events_most": 3}) as it:
        await recorded(it)
        assert await it["a"].event_retention.round() == 4
        assert [each["detail"] for each in await listed(it)] == ["2", "3", "4"]
        it["a"].events.record("restored")
        await asyncio.sleep(2)
        rows = await it.stores["a"].scan_all(EVENTS)
        assert len(rows) == len(await listed(it)) == 4  # until the next round
        assert await it["a"].event_retention.round() == 1
        assert len(await listed(it)) == 3


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"limit": "0"}, "malformed-request"),
        ({"since": "yesterday"}, "malformed-request"),
        ({"cursor": "x"}, "invalid-cursor"),
        ({"cursor": "bm90IGEgcGxhY2U"}, "invalid-cursor"),
        ({"until": "1"}, "malformed-request"),
    ],
)
async def test_senseless_questions_are_refused(query: dict[str, str], problem: str) -> None:
    async with Served() as it:
        assert (await it.ask("GET", "/v1/events", query=query)).problem == problem


@in_virtual_time
async def test_metrics_count_events() -> None:
    async with Served("a", "b", **ON) as it:
        await recorded(it)
        metrics = (await it.ask("GET", "/metrics")).body.decode()
        assert 'atoll_events_total{kind="change-parked"} 3.0' in metrics
        assert "atoll_events_left_out_total 0.0" in metrics
