from __future__ import annotations

from random import Random
from typing import Any

from aiohttp import web

from atoll.demo import collisions as stage
from atoll.demo.collisions import Collisions
from atoll.demo.http_client import HttpClient

from .client_region import client_at

SECONDS = 20 * stage.EVERY_S


def staged(client: HttpClient, *, alive: tuple[str, ...] = ("tokyo", "frankfurt")) -> Collisions:
    return Collisions(
        client, client.ledger, ("tokyo", "frankfurt"), alive=lambda name: name in alive, random=Random(1)
    )


async def agreeable(request: web.Request) -> web.Response:
    return web.json_response({"items": [{"id": "r1"}], "cursor": None})


async def test_every_kind_of_conflict_is_staged(monkeypatch: Any) -> None:
    monkeypatch.setattr(stage, "EVERY_S", 0.001)
    async with client_at(agreeable) as client:
        await staged(client).run(10 * 0.001)
        kinds = {collision.kind for collision in client.ledger.collisions}
        assert kinds == {"insert_exists", "update_origin_differs", "update_deleted", "delete_origin_differs"}
        collections = {collision.collection for collision in client.ledger.collisions}
        assert collections == {"profile", "cart", "coupon", "review", "price_tag"}
        assert list(client.ledger.notes) == ["note-6"]


async def test_nothing_is_staged_when_only_one_region_is_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(stage, "EVERY_S", 0.001)
    async with client_at(agreeable) as client:
        await staged(client, alive=("tokyo",)).run(10 * 0.001)
        assert client.ledger.acknowledged == 0


async def test_refused_edit_is_no_collision(monkeypatch: Any) -> None:
    async def refuses_deletions(request: web.Request) -> web.Response:
        return web.json_response({"items": [{"id": "r1"}]}, status=409 if request.method == "DELETE" else 200)

    monkeypatch.setattr(stage, "EVERY_S", 0.001)
    async with client_at(refuses_deletions) as client:
        await staged(client).run(10 * 0.001)
        assert {collision.kind for collision in client.ledger.collisions} == {
            "insert_exists",
            "update_origin_differs",
        }


async def test_documents_that_are_updated_are_there_beforehand() -> None:
    async with client_at(agreeable) as client:
        base = staged(client).base(SECONDS)
    keys = [write["put"]["key"] for write in base]
    assert len(keys) == len(set(keys)) == 14
    assert {write["put"]["collection"] for write in base} == {"profile", "cart", "price_tag", "note"}
