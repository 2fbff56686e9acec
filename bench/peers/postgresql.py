"""PostgreSQL as a Python user has it: asyncpg over TCP; two servers replicate both ways by themselves.

Every commit is on the disk before it is acknowledged (`fsync` and `synchronous_commit` are on, as by default).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter

import asyncpg

from atoll.errors import Unavailable
from atoll.testing.postgres_server import PostgresServer
from bench.callers import Calls, drive
from bench.documents import document_body, document_key
from bench.peers import NotMeasured

DURABILITY = "fsync before every acknowledgement"
_TABLE = "CREATE TABLE document (key text PRIMARY KEY, body jsonb NOT NULL)"
_PUT = """
INSERT INTO document VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET body = excluded.body
"""
_PUT_MANY = """
INSERT INTO document SELECT key, body::jsonb FROM unnest($1::text[], $2::text[]) AS row(key, body)
ON CONFLICT (key) DO UPDATE SET body = excluded.body
"""
_CONNECTIONS = 150
_LAG_TIMEOUT_S = 10.0
_MEMORY = {"shared_buffers": "256MB", "max_wal_size": "4GB"}


def label(server: PostgresServer) -> str:
    return f"PostgreSQL {server.version}"


@contextmanager
def serving(folder: Path) -> Iterator[PostgresServer]:
    """One server with an empty table."""
    try:
        settings = {"wal_level": "logical", "max_connections": str(_CONNECTIONS), **_MEMORY}
        server = PostgresServer(folder, settings=settings)
        with server:
            server.sql(_TABLE)
            yield server
    except Unavailable as error:
        raise NotMeasured(error.message.splitlines()[0]) from error


@contextmanager
def replicating(folder: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Two servers, each subscribed to what was written at the other (`origin = none`)."""
    with serving(folder / "here") as here, serving(folder / "there") as there:
        for server in (here, there):
            server.sql("CREATE PUBLICATION written FOR TABLE document")
        for server, other in ((here, there), (there, here)):
            name = "from_there" if server is here else "from_here"
            server.sql(
                f"CREATE SUBSCRIPTION {name} CONNECTION '{other.url()}' PUBLICATION written"
                " WITH (origin = none, copy_data = false)"
            )
        yield here, there


async def write_singly(url: str, writers: int, count: int, first: int = 0) -> Calls:
    """One document a transaction, from so many connections."""
    async with _connected(url, writers) as connections:

        async def put(connection: asyncpg.Connection, number: int) -> None:
            await connection.execute(_PUT, document_key(number), document_body(number).decode())

        return await drive([partial(put, each) for each in connections], range(first, first + count))


async def write_batches(url: str, writers: int, count: int, size: int, first: int = 0) -> Calls:
    """`size` documents a transaction, one statement each."""
    async with _connected(url, writers) as connections:

        async def put(connection: asyncpg.Connection, start: int) -> None:
            numbers = range(start, start + size)
            keys = [document_key(number) for number in numbers]
            await connection.execute(_PUT_MANY, keys, [document_body(number).decode() for number in numbers])

        return await drive([partial(put, each) for each in connections], range(first, first + count, size))


async def read_singly(url: str, readers: int, keys: int, count: int) -> Calls:
    """By key, among the first `keys` documents."""
    random = Random("read")
    async with _connected(url, readers) as connections:

        async def get(connection: asyncpg.Connection, number: int) -> None:
            found = await connection.fetchval(
                "SELECT body FROM document WHERE key = $1", document_key(number)
            )
            assert found is not None

        numbers = [random.randrange(keys) for _ in range(count)]
        return await drive([partial(get, each) for each in connections], numbers)


async def lag_ms(here: str, there: str, samples: int, first: int) -> list[float]:
    """From the acknowledgement of one write here until it is seen there, nothing else going on."""
    random = Random("lag")
    found = []
    async with _connected(here, 1) as (writer,), _connected(there, 1) as (reader,):
        for number in range(first, first + samples):
            await asyncio.sleep(random.uniform(0.02, 0.06))
            await writer.execute(_PUT, document_key(number), document_body(number).decode())
            acknowledged = perf_counter()
            while not await _shown(reader, number):
                if perf_counter() > acknowledged + _LAG_TIMEOUT_S:
                    raise NotMeasured(f"PostgreSQL had not replicated a write within {_LAG_TIMEOUT_S:.0f} s")
            found.append((perf_counter() - acknowledged) * 1000)
    return found


class Watch:
    """Asks one server, over one connection, what it shows."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(url))

    def shows(self, number: int) -> bool:
        return self._runner.run(_shown(self._connection, number))

    def count(self) -> int:
        return int(self._runner.run(self._connection.fetchval("SELECT count(*) FROM document")))

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


async def _shown(connection: asyncpg.Connection, number: int) -> bool:
    query = "SELECT 1 FROM document WHERE key = $1"
    return await connection.fetchval(query, document_key(number)) is not None


@asynccontextmanager
async def _connected(url: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    connections = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()
