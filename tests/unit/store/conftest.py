"""One real PostgreSQL for the tests of a worker, or the one that `ATOLL_TEST_POSTGRESQL_URL` names."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.unit.store.postgresql_harness import PostgresHarness

from atoll.testing.postgres_server import PostgresServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a database and a superuser, who makes schemas and roles in it: a database of its own would cost each test more
    than all else."""
    name = f"atoll_test_{os.getpid()}"
    with contextlib.ExitStack() as stack:
        url = (
            os.environ.get("ATOLL_TEST_POSTGRESQL_URL")
            or stack.enter_context(
                PostgresServer(tmp_path_factory.mktemp("postgres") / "data", fsync=False)
            ).url()
        )
        asyncio.run(_execute(url, f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"))
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
        asyncio.run(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


@contextlib.asynccontextmanager
async def _harness(url: str) -> AsyncIterator[PostgresHarness]:
    administrator = await asyncpg.connect(url)
    harness = PostgresHarness(administrator, url, f"atoll_test_{os.getpid()}_{next(_numbers)}")
    try:
        await harness.create()
        yield harness
    finally:
        await harness.drop()
        await administrator.close()


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[PostgresHarness]:
    """An empty schema, and a role that owns it and nothing else."""
    async with _harness(postgresql_url) as harness:
        yield harness


@pytest.fixture
async def another_database(postgresql_url: str) -> AsyncIterator[PostgresHarness]:
    """As `database`, beside it."""
    async with _harness(postgresql_url) as harness:
        yield harness
