from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from atoll import errors
from atoll.cli.init import write_project
from atoll.client import Database, Put, RegionConfig, Request, Response, Stream, Transport, connect
from atoll.schema import Decrement

from .test_feed import SSE, event
from .world import Behaviour, Inventory, refused, shown, unreachable, working


class FakeTransport:
    def __init__(self, **regions: Behaviour) -> None:
        self.regions = regions
        self.sent: list[Request] = []
        self.feed: list[bytes | errors.AtollError] = []
        self.delays_s: dict[str, float] = {}
        self.closed = False
        self.forgotten = 0

    async def send(self, request: Request) -> Response:
        self.sent.append(request)
        await asyncio.sleep(self.delays_s.get(request.region, 0))
        answer = self.regions[request.region](request)
        if isinstance(answer, errors.AtollError):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        self.sent.append(request)

        async def chunks() -> AsyncIterator[bytes]:
            while self.feed:
                chunk = self.feed.pop(0)
                if isinstance(chunk, errors.AtollError):
                    raise chunk
                yield chunk

        yield Stream(200, SSE, chunks())

    async def close(self) -> None:
        self.closed = True

    def forget(self) -> None:
        self.forgotten += 1


def database(
    transport: Transport,
    *names: str,
    near: str | None = "tokyo",
    clock: Callable[[], float] = time.monotonic,
) -> Database:
    endpoints = [RegionConfig(name, f"http://{name}") for name in names or ("tokyo", "frankfurt")]
    return Database(transport, endpoints, near=near, clock=clock)


async def test_each_verb_reaches_its_route() -> None:
    fake = FakeTransport(tokyo=lambda request: shown(stock=1), frankfurt=working)
    async with database(fake) as db:
        one = Inventory(key="k", stock=1)
        assert await db.put(one) == one
        assert await db.get(Inventory, "k") == one
        assert (await db.read(Inventory, "k")).version == "v1"
        assert await db.update(Inventory, "k", stock=Decrement(2)) == one
        assert await db.patch(Inventory, "k", {"$set": {"labels.a": "b"}}) == one
        assert await db.delete(Inventory, "k") is True
        assert await db.resolve("c1", one) == {"stock": 1}
    assert [(request.method, request.path) for request in fake.sent] == [
        ("PUT", "/v1/inventory/k"),
        ("GET", "/v1/inventory/k"),
        ("GET", "/v1/inventory/k"),
        ("PATCH", "/v1/inventory/k"),
        ("PATCH", "/v1/inventory/k"),
        ("DELETE", "/v1/inventory/k"),
        ("POST", "/v1/conflicts/c1/resolve"),
    ]
    assert fake.closed


async def test_absent_documents() -> None:
    fake = FakeTransport(tokyo=lambda _: refused(errors.NotFound("none")))
    async with database(fake, "tokyo") as db:
        assert await db.get(Inventory, "k") is None
        found = await db.read(Inventory, "k")
        assert (found.value, found.version, found.region) == (None, None, "tokyo")
        assert await db.delete(Inventory, "k") is False


async def test_list_goes_through_all_pages() -> None:
    def page(request: Request) -> Response:
        first = "cursor" not in request.query
        item = {"key": "a" if first else "b", "value": {}, "version": "v"}
        return Response(200, {}, msgspec.json.encode({"items": [item], "cursor": "next" if first else None}))

    async with database(FakeTransport(tokyo=page), "tokyo") as db:
        assert [found.key async for found in db.list(Inventory, limit=1)] == ["a", "b"]


async def test_conflicts_go_through_all_pages() -> None:
    def page(request: Request) -> Response:
        first = "cursor" not in request.query
        return Response(
            200, {}, msgspec.json.encode({"items": [{"id": 1}], "cursor": "n" if first else None})
        )

    fake = FakeTransport(tokyo=page)
    async with database(fake, "tokyo") as db:
        assert len([record async for record in db.conflicts(status="manual", since=5)]) == 2
    assert fake.sent[0].query == "status=manual&since=5&limit=100"


async def test_given_idempotency_key_is_sent() -> None:
    fake = FakeTransport(tokyo=working)
    async with database(fake, "tokyo") as db:
        await db.put(Inventory(key="k"), idempotency_key="mine")
        with pytest.raises(errors.ConfigError):
            await db.batch([Put(Inventory(key="k"))], idempotency_key="mine-too")
    assert [request.headers["idempotency-key"] for request in fake.sent] == ["mine", "mine-too"]


async def test_calls_of_a_session_follow_one_another() -> None:
    def count(request: Request) -> Response:
        seen = int(request.headers.get("atoll-session", "0"))
        return Response(200, {"atoll-session": str(seen + 1)}, shown().body)

    fake = FakeTransport(tokyo=count)
    fake.delays_s["tokyo"] = 0.001
    async with database(fake, "tokyo") as db, db.session() as session:
        await asyncio.gather(*(session.put(Inventory(key="k")) for _ in range(20)))
        assert session.token == "20"


async def test_session_goes_on_from_a_token() -> None:
    fake = FakeTransport(tokyo=working)
    async with database(fake, "tokyo") as db:
        async with db.session("handed-over") as session:
            await session.get(Inventory, "k")
            assert (session.token, session.region, session.degraded) == ("seen-v1", "tokyo", None)
        await db.get(Inventory, "k")
    assert [request.headers.get("atoll-session") for request in fake.sent] == ["handed-over", None]


async def test_quickest_region_is_preferred_when_none_is_named() -> None:
    fake = FakeTransport(tokyo=working, frankfurt=working, virginia=unreachable)
    fake.delays_s["tokyo"] = 0.05
    async with database(fake, "tokyo", "frankfurt", "virginia", near=None) as db:
        assert db.regions == ("frankfurt", "tokyo", "virginia")


async def test_client_returns_to_near_once_it_is_well() -> None:
    fake = FakeTransport(tokyo=unreachable, frankfurt=working)
    times_s = iter(range(1000))
    async with database(fake, clock=lambda: float(next(times_s))) as db:
        await db.get(Inventory, "k")
        assert db.regions[0] == "frankfurt"
        fake.regions["tokyo"] = working
        await db.get(Inventory, "k")
        await db.get(Inventory, "k")  # meanwhile tokyo is asked how it is
        assert db.regions[0] == "tokyo"
    assert "/health/serving" in {request.path for request in fake.sent if request.region == "tokyo"}


async def test_changes_go_on_over_a_broken_stream() -> None:
    fake = FakeTransport(tokyo=working, frankfurt=working)
    fake.feed = [event("c1"), errors.Indefinite("reset"), event("c2")]
    async with database(fake) as db:
        changes = db.changes("c0")
        assert [(await anext(changes)).cursor for _ in range(2)] == ["c1", "c2"]
        await changes.aclose()  # type: ignore[attr-defined]
    assert [request.query for request in fake.sent] == ["cursor=c0", "cursor=c1"]


async def test_cancelled_call_leaves_the_session_usable() -> None:
    fake = FakeTransport(tokyo=working)
    fake.delays_s["tokyo"] = 30
    async with database(fake, "tokyo") as db, db.session() as session:
        call = asyncio.create_task(session.get(Inventory, "k"))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        fake.delays_s.clear()
        assert await session.get(Inventory, "k") == Inventory(key="k")


async def test_connect_reads_the_file(tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    db = connect(tmp_path / "atoll.toml", near="frankfurt")
    assert db.regions == ("frankfurt", "virginia", "tokyo")
    await db.close()


async def test_connect_takes_the_bounds_of_the_file(tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    path = tmp_path / "atoll.toml"
    path.write_text(path.read_text() + "\n[deployment.limits]\ndocument_bytes = 1024\n")
    async with connect(path, near="tokyo") as db:
        with pytest.raises(errors.TooLarge):
            await db.put(Inventory(key="k", title="x" * 2000))


def page_with(misfits: int) -> Callable[[Request], Response]:
    """Two pages of 25 documents, of which the first few no longer fit."""

    def answer(request: Request) -> Response:
        first = "cursor" not in request.query
        items = [
            {
                "key": f"k{n}",
                "value": {"title": 5 if first and n < misfits else "t", "later": True},
                "version": "v",
            }
            for n in (range(25) if first else range(25, 50))
        ]
        return Response(200, {}, msgspec.json.encode({"items": items, "cursor": "n" if first else None}))

    return answer


@pytest.mark.parametrize("misfits", [1, 3])
async def test_document_that_does_not_fit_hides_no_other(misfits: int) -> None:
    found: list[str] = []

    async def collect(db: Database, found: list[str]) -> None:
        async for each in db.list(Inventory):
            found.append(each.key)

    async with database(FakeTransport(tokyo=page_with(misfits)), "tokyo") as db:
        with pytest.raises(errors.InvalidDocument, match="inventory/k0 does not fit") as caught:
            await collect(db, found)
    assert len(found) == 50 - misfits
    assert caught.value.details["keys"] == [f"k{n}" for n in range(misfits)]


async def test_documents_that_do_not_fit_may_be_handed_over() -> None:
    left_out: list[errors.InvalidDocument] = []
    async with database(FakeTransport(tokyo=page_with(2)), "tokyo") as db:
        found = [each.key async for each in db.list(Inventory, on_invalid=left_out.append)]
    assert len(found) == 48
    assert [error.details["key"] for error in left_out] == ["k0", "k1"]


async def test_batch_names_what_does_not_fit_and_returns_the_others() -> None:
    def written(request: Request) -> Response:
        values = [{"title": "fits"}, {"title": 5}, {"title": 6}]
        found = [
            {"collection": "inventory", "key": f"k{n}", "value": value, "version": "v"}
            for n, value in enumerate(values)
        ]
        return Response(200, {}, msgspec.json.encode({"written": found}))

    async with database(FakeTransport(tokyo=written), "tokyo") as db:
        with pytest.raises(
            errors.Indefinite, match=r"the write was done, .* inventory/k1 does not fit"
        ) as caught:
            await db.batch([Put(Inventory(key=f"k{n}")) for n in range(3)])
    assert caught.value.details["keys"] == ["k1", "k2"]
    shown_, *others = caught.value.details["written"]
    assert (shown_.value.title, others) == ("fits", [None, None])


async def test_document_that_does_not_fit_is_named() -> None:
    async with database(FakeTransport(tokyo=lambda _: shown(title=5)), "tokyo") as db:
        for road in (db.get, db.read):
            with pytest.raises(errors.InvalidDocument, match=r"inventory/k does not fit .* title: must be"):
                await road(Inventory, "k")
