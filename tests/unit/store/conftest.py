"""One real PostgreSQL for the tests of a worker, or the one that `ATOLL_TEST_POSTGRESQL_URL` names."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from tests.unit.store.postgresql_harness import PostgresHarness

from atoll.testing.postgres_server import PostgresServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a superuser, who makes databases and roles."""
    given = os.environ.get("ATOLL_TEST_POSTGRESQL_URL")
    if given:
        yield given
        return
    with PostgresServer(tmp_path_factory.mktemp("postgres") / "data", fsync=False) as server:
        yield server.url()


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
