"""What a Python user gets: durable writes of 64 concurrent callers, reads by key, one exchange over HTTP.

Each client is in a process of its own, with the driver that its users have: Atoll's client, asyncpg, redis-py,
aiohttp. In-process Atoll has no server, and no process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import TypeVar

import atoll
import atoll.client
from atoll.testing.postgres_server import PostgresServer
from bench.callers import Calls, apart, drive
from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.load import load, put_document
from bench.peers import NotMeasured, aiohttp_exchange, postgresql, redis_server
from bench.record import Record
from bench.regions import APPLICATION, COLLECTION, PREFIX
from bench.rounds import Say, Scale
from bench.served import serving

WRITERS = 64
T = TypeVar("T")
Peers = dict[str, tuple[str, str, str]]
"""contestant → what it is, the driver that is used, what it has done when it acknowledges"""
_BODIES = [json.loads(document_body(number)) for number in range(4096)]
_KEYS = 1_000
_OTHERS = 500_000
"""Documents from here on are new where the first ones have been written."""
_PARTS = {
    "client": "by Atoll's client over HTTP",
    "connections": "over bare HTTP connections",
    "in-process": "by atoll.open, in process",
    "asyncpg": "asyncpg",
    "redis": "redis-py",
    "aiohttp": "aiohttp",
    "region": "by the region in process, as JSON text",
}


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    with (
        serving(folder, ["here"]) as (served,),
        _peer(partial(postgresql.serving, folder / "postgresql")) as postgres,
        _peer(partial(redis_server.serving, folder / "redis")) as redis,
        _peer(aiohttp_exchange.serving) as exchange,
    ):
        writes = _Found(scale.rounds, say)
        count = scale.requests
        writes.take("client", lambda: apart(client_writes, served.url, WRITERS, count))
        writes.take("connections", lambda: _bare(served.url, count))
        writes.take("in-process", lambda: apart(embedded_writes, folder / "embedded", WRITERS, count))
        writes.take("asyncpg", lambda: apart(postgresql.write_singly, _of(postgres).url(), WRITERS, count))
        writes.take("redis", lambda: apart(redis_server.write_singly, _of(redis).port, WRITERS, count))
        writes.run("writes, 64 at a time")
        reads = _Found(scale.rounds, say)
        count = scale.reads // 4
        reads.take(
            "in-process", lambda: apart(embedded_reads, folder / "embedded", _KEYS, scale.reads, False)
        )
        reads.take("region", lambda: apart(embedded_reads, folder / "embedded", _KEYS, scale.reads, True))
        reads.take("client", lambda: apart(client_reads, served.url, _KEYS, count))
        reads.take("redis", lambda: apart(redis_server.read_singly, _of(redis).port, _KEYS, count))
        reads.take("asyncpg", lambda: apart(postgresql.read_singly, _of(postgres).url(), 1, _KEYS, count))
        reads.take("aiohttp", lambda: apart(aiohttp_exchange.read_singly, _of(exchange), count))
        reads.run("reads, one at a time")
        peers = {
            "asyncpg": ("PostgreSQL", "asyncpg", postgresql.DURABILITY),
            "redis": ("Redis", "redis-py", redis_server.DURABILITY),
            "aiohttp": (aiohttp_exchange.LABEL, "", aiohttp_exchange.DURABILITY),
        }
        if isinstance(postgres, PostgresServer):
            peers["asyncpg"] = (postgresql.label(postgres), *peers["asyncpg"][1:])
        if isinstance(redis, redis_server.Served):
            peers["redis"] = (redis.label, *peers["redis"][1:])
        return [*_write_figures(writes, peers), *_read_figures(reads, peers)]


def _write_figures(found: _Found, peers: Peers) -> list[Figure]:
    goals = {"client": Goal("ratio", at_least=1), "in-process": Goal("ratio", at_least=3)}
    return [
        found.figure(
            f"durable writes, {WRITERS} at a time, {_PARTS[ours]}",
            "/s",
            _rate,
            (ours, theirs),
            peers=peers,
            goal=goals.get(ours),
        )
        for ours in ("client", "connections", "in-process")
        for theirs in ("asyncpg", "redis")
    ]


def _read_figures(found: _Found, peers: Peers) -> list[Figure]:
    fast = Goal("ratio", at_most=1 / 5)
    lines = (
        ("in-process", "redis", fast),
        ("in-process", "asyncpg", None),
        ("region", "redis", fast),
        ("client", "aiohttp", Goal("ratio", at_most=1.5)),
        ("client", "redis", None),
        ("client", "asyncpg", None),
    )
    return [
        found.figure(
            f"read by key {_PARTS[ours]}, p50", "µs", _p50_us, (ours, theirs), peers=peers, goal=goal
        )
        for ours, theirs, goal in lines
    ]


class _Found:
    """Rounds of several contestants in turn; one that cannot be had keeps its reason instead."""

    def __init__(self, rounds: int, say: Say) -> None:
        self._rounds, self._say = rounds, say
        self._work: dict[str, Callable[[], Calls]] = {}
        self.calls: dict[str, list[Calls]] = {}
        self.reasons: dict[str, str] = {}

    def take(self, name: str, work: Callable[[], Calls]) -> None:
        self._work[name] = work

    def run(self, what: str) -> None:
        for number in range(1, self._rounds + 1):
            for name, work in self._work.items():
                if name in self.reasons:
                    continue
                self._say(f"{what}: {_PARTS[name]}, round {number} of {self._rounds}")
                try:
                    self.calls.setdefault(name, []).append(work())
                except NotMeasured as error:
                    self.reasons[name] = str(error)

    def figure(
        self,
        measure: str,
        unit: str,
        of: Callable[[Calls], float],
        contestants: tuple[str, str],
        *,
        peers: Peers,
        goal: Goal | None,
    ) -> Figure:
        theirs = contestants[1]
        mine, others = ([of(calls) for calls in self.calls.get(name, ())] for name in contestants)
        name, driver, durability = peers[theirs]
        return Figure(
            name="clients",
            measure=measure,
            unit=unit,
            value=median(mine) if mine else None,
            peer=f"{name}, {driver}" if driver else name,
            peer_value=median(others) if others else None,
            goal=goal,
            durability=durability,
            not_measured=self.reasons.get(theirs, ""),
            details={"atoll_rounds": mine, "peer_rounds": others},
        )


def _rate(calls: Calls) -> float:
    return calls.per_second


def _p50_us(calls: Calls) -> float:
    return calls.p50_ms * 1000


@contextmanager
def _peer(start: Callable[[], AbstractContextManager[T]]) -> Iterator[T | NotMeasured]:
    """The peer, started; or why there is none."""
    with ExitStack() as stack:
        found: T | NotMeasured
        try:
            found = stack.enter_context(start())
        except NotMeasured as error:
            found = error
        yield found


def _of(found: T | NotMeasured) -> T:
    if isinstance(found, NotMeasured):
        raise found
    return found


def _model(number: int) -> Record:
    return Record(key=document_key(number), **_BODIES[number % len(_BODIES)])


def _bare(url: str, count: int) -> Calls:
    put = partial(put_document, prefix=PREFIX, first=_OTHERS)
    result = load(url, put, requests=count, connections=WRITERS, warmup=0)
    assert result.all_ok, dict(result.statuses)
    return Calls(result.requests_per_second, result.p50_ms, result.p99_ms, result.started)


async def client_writes(url: str, writers: int, count: int) -> Calls:
    """One client for all callers, as an application has it."""
    async with atoll.client.connect({"here": url}) as database:

        async def put(number: int) -> None:
            await database.put(_model(number))

        return await drive([put] * writers, range(count))


async def embedded_writes(folder: Path, writers: int, count: int) -> Calls:
    async with atoll.open(APPLICATION, data=folder) as database:

        async def put(number: int) -> None:
            await database.put(_model(number))

        return await drive([put] * writers, range(count))


async def client_reads(url: str, keys: int, count: int) -> Calls:
    async with atoll.client.connect({"here": url}) as database:

        async def get(number: int) -> None:
            assert await database.get(Record, document_key(number % keys)) is not None

        return await drive([get], range(count))


async def embedded_reads(folder: Path, keys: int, count: int, as_text: bool) -> Calls:
    """`as_text`: without making models of what was read."""
    random = Random("read")
    chosen = [document_key(random.randrange(keys)) for _ in range(count)]
    async with atoll.open(APPLICATION, data=folder) as database:
        region = database.region

        async def get(number: int) -> None:
            if as_text:
                assert (await region.read(COLLECTION, chosen[number])).value is not None
            else:
                assert await database.get(Record, chosen[number]) is not None

        return await drive([get], range(count))
