from __future__ import annotations

import msgspec
from aiohttp import web

from atoll.demo.deliveries import PRICE_CENTS, Deliveries

from .client_region import client_at


async def test_they_are_started_in_each_region_that_lives_and_paid_elsewhere() -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    async def region(request: web.Request) -> web.Response:
        if request.method != "GET":
            asked.append((request.path, msgspec.json.decode(await request.read())))
        return web.json_response({"items": []})

    async with client_at(region) as client:
        deliveries = Deliveries(client, client.ledger, ("tokyo", "frankfurt"), lambda name: name == "tokyo")
        await deliveries.fill(2.0)
        await deliveries.run(2.0)
        await deliveries.conclude(5.0)
    assert client.ledger.wallets == {"tokyo": PRICE_CENTS, "frankfurt": PRICE_CENTS}
    assert client.ledger.deliveries == {"tokyo-0": "frankfurt", "tokyo-1": "frankfurt"}
    assert client.ledger.killed_ms > 0
    path, body = asked[-1]
    assert (path, body["key"]) == ("/v1/sagas/delivery", "tokyo-1")
