"""Clients in forked processes, in several event loops and threads, and clients that are closed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from tests.unit.forked import forked

from atoll import errors
from atoll.client import Database, connect, connect_sync

from .peer import chunked, closed_port, http, peer
from .test_feed import event
from .world import Inventory


def about_what_was_asked(request: bytes) -> bytes:
    key = request.split(b" ", 2)[1].partition(b"?")[0].rpartition(b"/")[2].decode()
    if key == "multiplex":
        return http(404, b"{}")
    return http(200, msgspec.json.encode({"key": key, "value": {"title": key}, "version": "v"}))


LEFT_OPEN = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""An event loop that is over can close nothing: Python does, and warns those who ask for it."""


def in_thread(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `asyncio.run` returns or raises in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(call())).result()


async def title(db: Database, key: str) -> str | None:
    found = await db.get(Inventory, key)
    return None if found is None else found.title


# -- fork: gunicorn with preload, Celery prefork -------------------------------------------------------


def test_forked_process_has_connections_of_its_own() -> None:
    with peer(about_what_was_asked) as region, connect_sync({"tokyo": region.url}) as db:
        assert db.get(Inventory, "parent") is not None
        assert forked(lambda: [db.get(Inventory, f"k{n}").title for n in range(3)])() == ["k0", "k1", "k2"]  # type: ignore[union-attr]
        assert region.connections == 2
        assert db.get(Inventory, "parent") is not None
        assert region.connections == 2


def test_workers_get_the_answers_to_their_own_questions() -> None:
    with peer(about_what_was_asked) as region, connect_sync({"tokyo": region.url}) as db:
        db.get(Inventory, "warm")

        def work() -> list[str]:
            keys = [f"{os.getpid()}-{n}" for n in range(200)]
            return [key for key in keys if db.get(Inventory, key).title != key]  # type: ignore[union-attr]

        workers = [forked(work) for _ in range(4)]
        assert work() == []
        assert [worker() for worker in workers] == [[]] * 4


def test_closing_in_a_forked_process_leaves_the_parent_open() -> None:
    with peer(about_what_was_asked) as region, connect_sync({"tokyo": region.url}) as db:
        db.get(Inventory, "k")

        def use_and_close() -> str:
            with db:
                db.get(Inventory, "k")
            try:
                db.get(Inventory, "k")
            except errors.ConfigError as error:
                return error.message
            return ""

        assert "closed" in forked(use_and_close)()
        assert db.get(Inventory, "k") is not None


def test_session_that_a_thread_was_using_works_in_a_forked_process() -> None:
    asked, answer = threading.Event(), threading.Event()

    def slowly(request: bytes) -> bytes:
        if b"/slow" in request:
            asked.set()
            answer.wait()
        return about_what_was_asked(request)

    with peer(slowly) as region, connect_sync({"tokyo": region.url}) as db, db.session() as session:
        thread = threading.Thread(target=session.get, args=(Inventory, "slow"))
        thread.start()
        asked.wait()
        found = forked(lambda: session.get(Inventory, "k").title)()  # type: ignore[union-attr]
        answer.set()
        thread.join()
    assert found == "k"


def test_forked_process_does_not_take_pieces_of_its_parents_feed() -> None:
    with (
        peer(chunked(event("c1"), event("c2"), end=False)) as region,
        connect_sync({"tokyo": region.url}) as db,
    ):
        changes = db.changes("c0")
        assert next(changes).cursor == "c1"
        assert forked(lambda: next(changes).cursor)() in ("c1", "c2")
        assert region.connections == 2
        assert b"cursor=c1" in region.requests[1]
        assert next(changes).cursor == "c2"
        changes.close()  # type: ignore[attr-defined]


@LEFT_OPEN
def test_asynchronous_client_works_in_a_forked_process() -> None:
    with peer(about_what_was_asked) as region:
        db = connect({"tokyo": region.url})
        assert asyncio.run(title(db, "parent")) == "parent"

        async def parent() -> str | None:
            assert await title(db, "parent") == "parent"
            assert await asyncio.to_thread(forked(lambda: asyncio.run(title(db, "child")))) == "child"
            return await title(db, "parent")

        async def run() -> str | None:
            async with db:
                return await parent()

        assert asyncio.run(run()) == "parent"
        gc.collect()


# -- event loops and threads ---------------------------------------------------------------------------


@LEFT_OPEN
def test_client_works_in_one_event_loop_after_another() -> None:
    with peer(about_what_was_asked) as region:
        db = connect({"tokyo": region.url})
        session = db.session()

        async def many() -> list[str | None]:
            async with db.session():
                found = await asyncio.gather(*(title(db, f"k{n}") for n in range(12)))
            await asyncio.gather(*(session.get(Inventory, "k") for _ in range(3)))
            return list(found)

        for _ in range(3):
            assert asyncio.run(many()) == [f"k{n}" for n in range(12)]
        asyncio.run(db.close())
        with pytest.raises(errors.ConfigError, match="closed"):
            asyncio.run(title(db, "k"))
        gc.collect()


async def test_second_event_loop_is_told_so() -> None:
    with peer(about_what_was_asked) as region:
        async with connect({"tokyo": region.url}) as db:
            session = db.session()
            assert await title(db, "k") == "k"
            changes = db.changes()

            async def one_change() -> None:
                await anext(changes)

            async def listed() -> list[Any]:
                return [item async for item in db.list(Inventory)]

            async def entered() -> None:
                async with db:
                    pass

            roads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: db.get(Inventory, "k"),
                lambda: db.put(Inventory(key="k")),
                lambda: session.get(Inventory, "k"),
                lambda: db.ids("uuid7"),
                one_change,
                listed,
                entered,
                db.close,
            ]
            for road in roads:
                with pytest.raises(errors.ConfigError, match="belongs to another event loop"):
                    await asyncio.to_thread(in_thread, road)
            assert await title(db, "k") == "k"


def test_call_without_an_event_loop_is_told_so() -> None:
    call = connect({"tokyo": closed_port()}).get(Inventory, "k")
    with pytest.raises(errors.ConfigError, match="no asyncio event loop runs here"):
        call.send(None)


# -- closed, and entered again -------------------------------------------------------------------------


async def test_closed_client_says_so() -> None:
    with peer(about_what_was_asked) as region:
        async with connect({"tokyo": region.url}) as db:
            session = db.session()
            assert await title(db, "k") == "k"
        await db.close()
        with pytest.raises(errors.ConfigError, match="closed"):
            await db.get(Inventory, "k")
        with pytest.raises(errors.ConfigError, match="closed"):
            await session.get(Inventory, "k")
        with pytest.raises(errors.ConfigError, match="closed"):
            await anext(db.changes())
        with pytest.raises(errors.ConfigError, match="closed"):
            async with db:
                pass


async def test_client_is_not_entered_twice_at_once() -> None:
    with peer(about_what_was_asked) as region:
        async with connect({"tokyo": region.url}) as db:
            with pytest.raises(errors.ConfigError, match="open already"):
                async with db:
                    pass
            assert await title(db, "k") == "k"
        with connect_sync({"tokyo": region.url}) as blocking:
            with pytest.raises(errors.ConfigError, match="open already"), blocking:
                pass
            assert blocking.get(Inventory, "k") is not None
        with pytest.raises(errors.ConfigError, match="closed"), blocking:
            pass


@pytest.mark.parametrize("alone", [True, False])
async def test_calls_in_flight_end_when_the_client_is_closed(alone: bool) -> None:
    asked, answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def never(request: bytes) -> bytes:
        loop.call_soon_threadsafe(asked.set)
        answer.wait()
        return b""

    with peer(never) as region:
        db = connect({"tokyo": region.url})
        reads = [asyncio.create_task(db.get(Inventory, f"k{n}")) for n in range(1 if alone else 300)]
        writes = [asyncio.create_task(db.put(Inventory(key=f"k{n}"))) for n in range(1 if alone else 300)]
        await asked.wait()
        await db.close()
        read = await asyncio.gather(*reads, return_exceptions=True)
        written = await asyncio.gather(*writes, return_exceptions=True)
        answer.set()
    assert {type(each) for each in read} <= {errors.ConfigError, errors.RegionUnreachable}
    assert {type(each) for each in written} <= {errors.ConfigError, errors.Indefinite}


def test_pool_closed_by_another_thread_is_a_closed_client() -> None:
    from urllib3 import exceptions

    from atoll.client import urllib3_transport

    error = urllib3_transport._translated(exceptions.ClosedPoolError(None, "closed"))  # type: ignore[arg-type]
    assert isinstance(error, errors.ConfigError)
