from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from atoll.demo.findings import collect, collect_settled, settle
from atoll.errors import AtollError

from .client_region import client_at

PAGES: dict[str, dict[str, Any]] = {
    "": {"items": [{"key": "a", "value": 1}, {"key": "b", "value": 2}], "cursor": "next"},
    "next": {"items": [{"key": "b", "value": 2}], "cursor": None},
}


async def region(request: web.Request) -> web.Response:
    match request.path:
        case "/admin/status":
            return web.json_response({"position": {"tokyo": 3}, "inbox": {"entries": 0}})
        case "/admin/digest":
            return web.json_response(
                {"collections": {"order": {"documents": 2, "digest": "d"}, "_events": {}}}
            )
        case "/admin/parked":
            return web.json_response({"items": [{}]})
        case "/v1/order":
            return web.json_response(PAGES[request.query.get("cursor", "")])
        case "/v1/conflicts":
            return web.json_response({"items": [{"id": "r1"}], "cursor": None})
        case "/v1/sagas":
            return web.json_response({"items": [{"key": "d1", "status": "completed"}], "cursor": None})
    return web.json_response({"detail": "no such thing"}, status=404)


async def test_everything_is_collected_from_all_pages() -> None:
    async with client_at(region) as client:
        found = await collect(client, "tokyo")
    assert found.documents == {"order": {"a": 1, "b": 2}}
    assert found.listed_twice == ["order/b"]
    assert found.sagas == {"d1": {"key": "d1", "status": "completed"}}
    assert (found.position, found.conflicts, found.parked) == ({"tokyo": 3}, [{"id": "r1"}], 1)


async def test_region_that_refuses_is_an_error() -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.json_response({"detail": "a defect"}, status=500)

    async with client_at(broken) as client:
        with pytest.raises(AtollError, match="tokyo answered 500 to /admin/status"):
            await collect(client, "tokyo")


async def test_regions_at_one_position_have_settled() -> None:
    async with client_at(region) as client:
        assert await settle(client, ("tokyo", "frankfurt"), within_s=0.0, tell=lambda text: None)


async def test_regions_that_never_agree_have_not_settled() -> None:
    asked = 0

    async def drifting(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"position": {"tokyo": asked}, "inbox": {"entries": 0}})

    async with client_at(drifting) as client:
        assert not await settle(client, ("tokyo", "frankfurt"), within_s=0.0, tell=lambda text: None)


async def test_regions_are_asked_anew_when_a_late_write_came_between() -> None:
    listed = 0

    async def late(request: web.Request) -> web.Response:
        nonlocal listed
        if request.path == "/admin/status":
            return web.json_response({"position": {"tokyo": 3 + (listed > 0)}, "inbox": {"entries": 0}})
        if request.path == "/v1/order":
            listed += 1
            return web.json_response({"items": [{"key": "a", "value": listed}], "cursor": None})
        return await region(request)

    async with client_at(late) as client:
        settled, found = await collect_settled(
            client, ("tokyo", "frankfurt"), within_s=60.0, tell=lambda text: None
        )
    assert settled
    assert [each.position for each in found] == [{"tokyo": 4}] * 2
    assert sorted(each.documents["order"]["a"] for each in found) == [3, 4]
