from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from atoll import errors
from atoll.client import RegionConfig, Request, Response, SyncDatabase, SyncStream, connect_sync
from atoll.client.database import Database, Session
from atoll.client.sync_database import SyncSession
from atoll.schema import Decrement

from .test_feed import SSE, event
from .world import Behaviour, Inventory, shown, unreachable, working


class FakeTransport:
    def __init__(self, **regions: Behaviour) -> None:
        self.regions = regions
        self.sent: list[Request] = []
        self.feed: list[bytes | errors.AtollError] = []

    def send(self, request: Request) -> Response:
        self.sent.append(request)
        answer = self.regions[request.region](request)
        if isinstance(answer, errors.AtollError):
            raise answer
        return answer

    @contextmanager
    def stream(self, request: Request) -> Iterator[SyncStream]:
        self.sent.append(request)

        def chunks() -> Iterator[bytes]:
            while self.feed:
                chunk = self.feed.pop(0)
                if isinstance(chunk, errors.AtollError):
                    raise chunk
                yield chunk

        yield SyncStream(200, SSE, chunks())

    def close(self) -> None:
        pass


def database(
    transport: FakeTransport, near: str | None = "tokyo", clock: Callable[[], float] = lambda: 0.0
) -> SyncDatabase:
    endpoints = [RegionConfig(name, f"http://{name}") for name in transport.regions]
    return SyncDatabase(transport, endpoints, near=near, clock=clock)


def public(kind: type[Any]) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("twin", "other"), [(SyncDatabase, Database), (SyncSession, Session)])
def test_twins_offer_the_same(twin: type[Any], other: type[Any]) -> None:
    mine, theirs = public(twin), public(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        if callable(mine[name]):
            parameters = list(inspect.signature(mine[name]).parameters.values())
            others = list(inspect.signature(theirs[name]).parameters.values())
            if name == "transact":  # its function blocks here, too
                parameters, others = [[each.name for each in them] for them in (parameters, others)]
            assert parameters == others


def test_each_verb_reaches_its_route() -> None:
    fake = FakeTransport(tokyo=lambda request: shown(stock=1))
    with database(fake) as db:
        one = Inventory(key="k", stock=1)
        assert db.put(one) == db.get(Inventory, "k") == db.read(Inventory, "k").value == one
        assert db.update(Inventory, "k", stock=Decrement()) == db.patch(Inventory, "k", {"$unset": ["title"]})
        assert db.delete(Inventory, "k")
        assert db.resolve("c1", {"stock": 1}) == {"stock": 1}
    assert [request.method for request in fake.sent] == [
        "PUT",
        "GET",
        "GET",
        "PATCH",
        "PATCH",
        "DELETE",
        "POST",
    ]


def test_pages_follow_one_another() -> None:
    def page(request: Request) -> Response:
        first = "cursor" not in request.query
        item = {"key": "a" if first else "b", "value": {}, "version": "v"}
        return Response(200, {}, msgspec.json.encode({"items": [item], "cursor": "n" if first else None}))

    with database(FakeTransport(tokyo=page)) as db:
        assert [found.key for found in db.list(Inventory, limit=1)] == ["a", "b"]
        assert len(list(db.conflicts())) == 2


def test_client_returns_to_near_once_it_is_well() -> None:
    fake = FakeTransport(tokyo=unreachable, frankfurt=working)
    times_s = iter(range(0, 1000, 1))
    with database(fake, clock=lambda: float(next(times_s))) as db:
        db.get(Inventory, "k")
        assert db.regions[0] == "frankfurt"
        fake.regions["tokyo"] = working
        db.get(Inventory, "k")
        assert db.regions[0] == "tokyo"


def test_unhealthy_region_is_avoided_from_the_start() -> None:
    with database(FakeTransport(tokyo=unreachable, frankfurt=working), near=None) as db:
        assert db.regions == ("frankfurt", "tokyo")


def test_changes_go_on_over_a_broken_stream() -> None:
    fake = FakeTransport(tokyo=working, frankfurt=working)
    fake.feed = [event("c1"), errors.Indefinite("reset"), event("c2")]
    with database(fake) as db:
        changes = db.changes("c0")
        assert [next(changes).cursor for _ in range(2)] == ["c1", "c2"]
        changes.close()  # type: ignore[attr-defined]


def test_threads_may_share_a_session() -> None:
    def count(request: Request) -> Response:
        seen = int(request.headers.get("atoll-session", "0"))
        return Response(200, {"atoll-session": str(seen + 1)}, shown().body)

    with database(FakeTransport(tokyo=count)) as db, db.session() as session:
        threads = [
            threading.Thread(target=lambda: [session.get(Inventory, "k") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.token == "200"


def test_connect_takes_urls() -> None:
    with connect_sync({"tokyo": "http://127.0.0.1:1"}) as db:
        assert db.regions == ("tokyo",)
