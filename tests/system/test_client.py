from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil  # type: ignore[import-untyped]
import pytest
from pydantic import Field
from tests.unit.forked import forked

from atoll import (
    BoundedCounter,
    Collection,
    Counter,
    Decrement,
    Increment,
    MapOf,
    SetOf,
    connect,
    connect_sync,
    home_region,
)
from atoll.client import ClientOptions, Database, Delete, Put, Update
from atoll.errors import (
    BoundExceeded,
    ConfigError,
    Indefinite,
    InvalidCursor,
    InvalidDocument,
    TooLarge,
    UnknownField,
    VersionMismatch,
)

from .cluster import Cluster, until

pytestmark = pytest.mark.xdist_group("shared")


class Profile(Collection, resolve="lww"):
    name: str
    age: int = 0
    score: float = 0.0
    extra: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it


class Page(Collection, resolve="manual"):
    title: str


class Cart(Collection, resolve="merge"):
    note: str = ""
    items: SetOf[str]
    labels: MapOf[int]


class Views(Collection):
    seen: Counter


class Inventory(Collection, consistency="strong", fallback="escrow"):
    title: str = ""
    stock: BoundedCounter = 0


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str
    quantity: int = 1


@pytest.fixture
async def db(shared: Cluster) -> AsyncIterator[Database]:
    async with connect(shared.urls, near="tokyo") as database:
        yield database


async def test_document_goes_there_and_back(db: Database) -> None:
    ann = Profile(key="client/ann é", name="Ann", extra={"a": [1, None]})
    assert await db.put(ann) == ann
    assert await db.get(Profile, "client/ann é") == ann
    assert await db.update(Profile, "client/ann é", age=30) == ann.model_copy(update={"age": 30})
    assert await db.delete(Profile, "client/ann é") is True
    assert await db.delete(Profile, "client/ann é") is False
    assert await db.get(Profile, "client/ann é") is None


async def test_lost_update_is_refused(db: Database) -> None:
    await db.put(Profile(key="client-guard", name="a"), create=True)
    seen = await db.read(Profile, "client-guard")
    await db.put(Profile(key="client-guard", name="b"), if_match=seen.version)
    with pytest.raises(VersionMismatch):
        await db.put(Profile(key="client-guard", name="c"), if_match=seen.version)
    with pytest.raises(VersionMismatch):
        await db.put(Profile(key="client-guard", name="d"), create=True)


async def test_operations_add_up(db: Database) -> None:
    await asyncio.gather(*(db.update(Views, "client", seen=Increment(2)) for _ in range(20)))
    found = await db.get(Views, "client")
    assert found is not None
    assert found.seen == 40


async def test_stock_is_not_oversold(db: Database) -> None:
    await db.put(Inventory(key="client", stock=6))
    await db.update(Inventory, "client", stock=Decrement(2))
    with pytest.raises(BoundExceeded) as caught:
        await db.update(Inventory, "client", stock=Decrement(50))
    assert caught.value.details["left_in_all"] == 4


async def test_repeated_write_counts_once(db: Database) -> None:
    for _ in range(3):
        await db.update(Views, "client-once", idempotency_key="client-once", seen=Increment())
    found = await db.get(Views, "client-once")
    assert found is not None
    assert found.seen == 1


async def test_batch_is_one(db: Database) -> None:
    await db.put(Profile(key="client-batch-old", name="old"))
    results = await db.batch(
        [
            Put(Profile(key="client-batch", name="new")),
            Update(Views, "client-batch", seen=Increment(3)),
            Delete(Profile, "client-batch-old"),
        ]
    )
    assert [type(result.value) for result in results] == [Profile, Views, type(None)]
    assert await db.get(Profile, "client-batch-old") is None


async def test_listing_filters_and_pages(db: Database) -> None:
    await db.batch([Put(Profile(key=f"client-list/{n:02}", name="5", age=n)) for n in range(25)])
    where = [("age", "ge", 5), ("name", "eq", "5")]
    found = [each.age async for each in db.list(Profile, prefix="client-list/", where=where, limit=7)]
    assert found == list(range(5, 25))


async def test_session_reads_its_writes_in_another_region(shared: Cluster, db: Database) -> None:
    async with db.session() as session, connect(shared.urls, near="virginia") as elsewhere:
        for number in range(10):
            await session.put(Profile(key="client-session", name=str(number)))
            found = await elsewhere.session(session.token).get(Profile, "client-session")
            assert found is not None
            assert found.name == str(number)


async def test_write_is_taken_to_its_home_region(shared: Cluster, db: Database) -> None:
    async with db.session() as session:
        await session.put(Order(key="client-home", region="virginia"))
        assert session.region == "virginia"
        assert await session.get(Order, "client-home") == Order(key="client-home", region="virginia")


async def test_feed_brings_what_is_written(db: Database) -> None:
    await db.put(Cart(key="client-feed", items={"a"}))
    seen: list[str] = []
    async with asyncio.timeout(20):
        async for change in db.changes(only=[Cart]):
            seen += [each.key for each in change.changes]
            if "client-feed" in seen:
                assert change.changes[0].as_model(Cart) == Cart(key="client-feed", items={"a"})
                break
    with pytest.raises(InvalidCursor):
        await anext(db.changes("no cursor"))


async def test_manual_conflict_is_found_and_resolved(shared: Cluster, db: Database) -> None:
    since = datetime.now(UTC)
    with shared.apart():
        for name in ("tokyo", "virginia"):
            async with connect({name: shared.urls[name]}) as one:
                await one.put(Page(key="client-manual", title=name))
    both = await db.read(Page, "client-manual")
    assert {each.value.title for each in both.siblings if each.value} == {"tokyo", "virginia"}
    records = [each async for each in db.conflicts(collection="page", key="client-manual", since=since)]
    assert await db.resolve(records[0]["id"], Page(key="client-manual", title="both")) == {"title": "both"}
    assert (await db.read(Page, "client-manual")).siblings == ()


async def test_identifiers_are_given_out(db: Database) -> None:
    assert len(set(await db.ids("ulid", 500))) == 500


async def test_bad_input_is_refused_before_or_after_the_network(db: Database) -> None:
    with pytest.raises(UnknownField):
        await db.patch(Profile, "client-bad", {"$set": {"nmae": "x"}})
    with pytest.raises(TooLarge):
        await db.put(Profile(key="client-bad", name="x" * (2 << 20)))


async def test_atoll_region_of_another_path_is_no_document(shared: Cluster) -> None:
    class Unknown(Collection):
        a: int = 0

    async with connect(shared.urls, near="tokyo") as one:
        with pytest.raises(Exception, match="unknown"):
            await one.get(Unknown, "k")


def test_sync_client_does_the_same(shared: Cluster) -> None:
    with connect_sync(shared.urls, near="frankfurt") as db, db.session() as session:
        session.put(Profile(key="client-sync", name="Ann"))
        assert session.region == "frankfurt"
        assert session.get(Profile, "client-sync") == Profile(key="client-sync", name="Ann")
        assert [each.key for each in session.list(Profile, prefix="client-sync")] == ["client-sync"]
        changes = db.changes(only=[Profile])
        assert any(each.key == "client-sync" for change in changes for each in change.changes)
        changes.close()  # type: ignore[attr-defined]


def test_forked_workers_get_their_own_answers(shared: Cluster) -> None:
    """As gunicorn with preload and Celery's prefork pool share a client that the parent has used."""
    with connect_sync(shared.urls, near="tokyo") as db:
        db.put(Profile(key="client-fork", name="parent"))

        def work(worker: int) -> list[str]:
            keys = [f"client-fork-{worker}-{n}" for n in range(50)]
            with db.session() as session:
                written = [session.put(Profile(key=key, name=key)) for key in keys]
                read = [session.get(Profile, key) for key in keys]
            expected = [Profile(key=key, name=key) for key in keys]
            return [
                key for key, *all3 in zip(keys, expected, written, read, strict=True) if all3 != all3[:1] * 3
            ]

        workers = [forked(partial(work, worker)) for worker in range(4)]
        assert work(4) == []
        assert [result() for result in workers] == [[]] * 4


async def test_one_document_that_does_not_fit_hides_no_other(db: Database) -> None:
    for n in range(20):
        await db.put(Profile(key=f"client-misfit-{n:02}", name="many" if n == 3 else str(n)))

    def declared_anew() -> type[Collection]:
        class Profile(Collection):
            name: Annotated[int, Field(strict=False)]

        return Profile

    found: list[str] = []
    model = declared_anew()

    async def collect() -> None:
        async for each in db.list(model, prefix="client-misfit", limit=5):
            found.append(each.key)

    with pytest.raises(InvalidDocument, match="profile/client-misfit-03 does not fit"):
        await collect()
    assert len(found) == 19


def test_counted_writes_survive_a_killed_region(make_cluster: Any) -> None:
    cluster: Cluster = make_cluster().start()
    tokyo = cluster["tokyo"]
    acknowledged = [0] * 4
    over = threading.Event()
    with connect_sync(cluster.urls, near="tokyo") as db, ThreadPoolExecutor(len(acknowledged)) as threads:

        def write(number: int) -> None:
            while not over.is_set():
                db.update(Views, "killed", seen=Increment())
                acknowledged[number] += 1

        writers = [threads.submit(write, number) for number in range(len(acknowledged))]
        try:
            until(lambda: sum(acknowledged) > 100, "writes are under way")
            assert tokyo.process is not None
            tokyo.process.kill()
            tokyo.process.wait()
            tokyo.start()
            before = sum(acknowledged)
            until(lambda: sum(acknowledged) > before + 100, "writes go on")
        finally:
            over.set()
        for writer in writers:
            writer.result()
    tokyo.wait()
    cluster.linked()
    cluster.settled()
    assert [region.get("views", "killed").value["seen"] for region in cluster] == [sum(acknowledged)] * 3


def test_calls_in_flight_at_a_kill_end_in_time_and_say_what_is_known(make_cluster: Any) -> None:
    """A read, and a write that was never sent, go to another region. A write in doubt stays, and says so in time."""
    cluster: Cluster = make_cluster(["frankfurt", "tokyo"]).start()
    tokyo = cluster["tokyo"]
    assert tokyo.put("profile", "here", {"name": "n"}).status == 200
    cluster.settled()
    options = ClientOptions(timeout_s=6.0, read_timeout_s=30.0, write_timeout_s=30.0)

    async def asynchronously(call: str) -> Any:
        async with connect(cluster.urls, near="tokyo", options=options) as db:
            match call:
                case "read":
                    return await db.get(Profile, "here")
                case "write":
                    return await db.update(Views, "doubt", seen=Increment())
                case _:
                    return await db.put(Profile(key="late", name="n"))

    def synchronously(call: str) -> Any:
        with connect_sync(cluster.urls, near="tokyo", options=options) as db:
            match call:
                case "read":
                    return db.get(Profile, "here")
                case "write":
                    return db.update(Views, "doubt", seen=Increment())
                case _:
                    return db.put(Profile(key="late", name="n"))

    with ThreadPoolExecutor(4) as threads:
        assert tokyo.process is not None
        os.kill(tokyo.process.pid, signal.SIGSTOP)  # the calls reach it, and get no answer
        calls: dict[tuple[str, str], Future[Any]] = {}
        for call in ("read", "write"):
            calls["async", call] = threads.submit(lambda call=call: asyncio.run(asynchronously(call)))
            calls["sync", call] = threads.submit(synchronously, call)
        until(lambda: _unread(tokyo.port) == 4, "all four were sent")
        tokyo.kill()
        for kind in ("async", "sync"):
            assert calls[kind, "read"].result(timeout=5) == Profile(key="here", name="n")
            with pytest.raises(Indefinite, match="may have happened") as doubt:
                calls[kind, "write"].result(timeout=15)
            assert doubt.value.details["region"] == "tokyo"
            assert doubt.value.details["idempotency_key"]
    # Nothing listens there: these were surely not done.
    assert asyncio.run(asynchronously("late")) == Profile(key="late", name="n") == synchronously("late")
    tokyo.start()
    tokyo.wait()
    with connect_sync(cluster.urls, near="tokyo", options=options) as db:
        key = str(doubt.value.details["idempotency_key"])
        for _ in range(2):
            assert db.update(Views, "doubt", seen=Increment(), idempotency_key=key).seen == 1


def _unread(port: int) -> int:
    """How many connections of this process to a port have sent something that nobody has read."""
    ours = {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port
    }
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        at, of = (int(address.rpartition(":")[2], 16) for address in (local, remote))
        count += at == port and of in ours and int(queues.rpartition(":")[2], 16) > 0
    return count


async def test_stranger_at_the_url_is_named(shared: Cluster) -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt works!")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(stranger, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect({"tokyo": f"http://127.0.0.1:{port}"}) as one:
            with pytest.raises(ConfigError, match="not an Atoll server"):
                await one.get(Profile, "k")
