"""Clients in forked processes, in several event loops and threads, and clients that are interrupted or closed."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import FrameType
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


def test_feed_read_within_a_coroutine_outlives_its_loop() -> None:
    """A blocking iterator is none of the event loop's generators, which are closed at its end."""
    with (
        peer(chunked(event("c1"), event("c2"), end=False)) as region,
        connect_sync({"tokyo": region.url}) as db,
    ):
        changes = db.changes("c0")

        async def first() -> str:
            return next(changes).cursor

        assert asyncio.run(first()) == "c1"
        assert next(changes).cursor == "c2"
        changes.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("connected", [connect, connect_sync])
def test_client_is_not_copied_and_says_so(connected: Callable[..., Any]) -> None:
    db = connected({"tokyo": closed_port()})
    for one in (db, db.session()):
        for road in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(errors.ConfigError, match="cannot be pickled or copied"):
                road(one)


_LEFT_OPEN = """
import asyncio, sys
from atoll.client import connect, connect_sync
from tests.unit.client.world import Inventory

db, blocking = (connected({"tokyo": sys.argv[1]}) for connected in (connect, connect_sync))
changes = blocking.changes()

async def main():
    return (await db.get(Inventory, "k")).title, blocking.get(Inventory, "k").title

print(asyncio.run(main()), asyncio.run(main()))
"""


def test_interpreter_ends_with_clients_open() -> None:
    with peer(about_what_was_asked) as region:
        ended = subprocess.run(
            [sys.executable, "-c", _LEFT_OPEN, region.url], capture_output=True, timeout=60, check=True
        )
    assert (ended.stdout, ended.stderr) == (b"('k', 'k') ('k', 'k')\n", b"")


# -- interrupted -----------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """As KeyboardInterrupt, or the soft time limit of Celery."""


_INTERRUPTED = ("/atoll/client/", "/urllib3/", "/http/client.py", "/queue.py", "/threading.py", "/socket.py")


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Raise amid a call, before the given line or return of all that it executes; whether it has so many."""
    left = step

    def trace(frame: FrameType, what: str, _: object) -> Any:
        nonlocal left
        if not any(place in frame.f_code.co_filename for place in _INTERRUPTED):
            return None
        if what in ("line", "return") and frame.f_code.co_qualname != "_BlockingSession._run":  # see there
            left -= 1
            if not left:
                raise Interrupted
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@LEFT_OPEN
def test_call_that_was_interrupted_anywhere_leaves_the_client_usable() -> None:
    found: list[str | None] = []
    with peer(about_what_was_asked) as region:
        db = connect_sync({"tokyo": region.url})
        session = db.session()
        for step in count(1):
            amid = interrupted_at(step, lambda: session.get(Inventory, "interrupted"))

            def use(key: str) -> None:
                read = session.get(Inventory, key)
                found.append(None if read is None else read.title)

            key = f"k{step}"
            using = threading.Thread(target=use, args=(key,), daemon=True)
            using.start()
            using.join(timeout=20)
            assert found[-1:] == [key], f"after an exception at step {step}"
            if not amid:
                break
        db.close()


def test_handler_of_a_signal_may_use_the_session_that_it_interrupts() -> None:
    asked: list[str | None] = []

    def handler(*_: object) -> None:
        asked.append(session.get(Inventory, "within").title)  # type: ignore[union-attr]

    def with_signal(request: bytes) -> bytes:
        if b"/outer" in request:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return about_what_was_asked(request)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with peer(with_signal) as region, connect_sync({"tokyo": region.url}) as db:
            session = db.session()
            assert session.get(Inventory, "outer").title == "outer"  # type: ignore[union-attr]
            assert asked == ["within"]
    finally:
        signal.signal(signal.SIGUSR1, before)


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
