from __future__ import annotations

import pytest
from aiohttp import web

from atoll.demo import http_client
from atoll.demo.http_client import Unanswered

from .client_region import client_at


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_PAUSE_S", 0.0)


async def test_acknowledged_write_is_booked_with_its_session() -> None:
    async def region(request: web.Request) -> web.Response:
        assert request.headers["idempotency-key"] == "k1"
        assert request.headers["atoll-session"] == "before"
        return web.json_response({"key": "ann"}, headers={"atoll-session": "after"})

    async with client_at(region) as client:
        answer = await client.write(
            "tokyo", "PUT", "/v1/profile/ann", {}, idempotency_key="k1", session="before"
        )
        assert (answer.status, answer.body, answer.session, answer.attempts) == (
            200,
            {"key": "ann"},
            "after",
            1,
        )
        assert (client.ledger.acknowledged, client.ledger.retries, client.ledger.replayed) == (1, 0, 0)


async def test_write_is_repeated_under_its_key_until_it_is_answered() -> None:
    keys: list[str] = []

    async def region(request: web.Request) -> web.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            request.transport.abort()  # type: ignore[union-attr]
        if len(keys) < 4:
            return web.json_response({"detail": "later"}, status=503 if len(keys) == 2 else 504)
        return web.json_response({}, headers={"atoll-replayed": "true"})

    async with client_at(region) as client:
        answer = await client.write("tokyo", "PATCH", "/v1/profile/ann", {}, idempotency_key="k1")
        assert (answer.attempts, keys) == (4, ["k1"] * 4)
        assert (client.ledger.acknowledged, client.ledger.retries, client.ledger.replayed) == (1, 3, 1)


async def test_refusal_is_an_answer_and_no_surprise() -> None:
    async def region(request: web.Request) -> web.Response:
        return web.json_response({"left_in_all": 0}, status=409)

    async with client_at(region) as client:
        answer = await client.write("tokyo", "PATCH", "/v1/inventory/7", {}, idempotency_key="k")
        assert (answer.status, client.ledger.acknowledged, client.ledger.surprises) == (409, 0, [])


async def test_answer_that_no_client_should_get_is_a_surprise() -> None:
    async def region(request: web.Request) -> web.Response:
        return web.json_response({"detail": "a defect"}, status=500)

    async with client_at(region) as client:
        await client.write("tokyo", "PATCH", "/v1/inventory/7", {}, idempotency_key="k")
        assert client.ledger.surprises == ["tokyo answered 500 to /v1/inventory/7: a defect"]


async def test_write_that_is_given_up_is_on_the_books() -> None:
    async def region(request: web.Request) -> web.Response:
        return web.json_response({}, status=503)

    async with client_at(region) as client:
        client.give_up_at = 0.0
        with pytest.raises(Unanswered):
            await client.write("tokyo", "PUT", "/v1/order/b-0", {}, idempotency_key="k")
        assert client.ledger.unanswered == ["PUT /v1/order/b-0 in tokyo"]
