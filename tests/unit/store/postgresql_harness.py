"""A schema of a real PostgreSQL for one test, and a role that owns it and nothing else."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asyncpg

from atoll.store.port import Store
from atoll.store.postgresql.store import PostgresStore, open_postgresql

PASSWORD = "correct-horse"


class PostgresHarness:
    def __init__(self, administrator: asyncpg.Connection[Any], url: str, name: str) -> None:
        """`administrator` is connected to the database that `url` names."""
        self.administrator = administrator
        self.name = name
        """Of the role and the schema."""
        parts = urlsplit(url)
        address = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=f"{name}:{PASSWORD}@{address}", query=f"schema={name}").geturl()

    async def create(self) -> None:
        await self.execute(f"CREATE ROLE {self.name} LOGIN PASSWORD '{PASSWORD}'")
        await self.execute(f"CREATE SCHEMA {self.name} AUTHORIZATION {self.name}")

    async def drop(self) -> None:
        await self.end_connections()
        await self.execute(f"DROP SCHEMA {self.name} CASCADE")
        await self.execute(f"DROP ROLE {self.name}")

    async def execute(self, statements: str) -> None:
        """As the administrator."""
        await self.administrator.execute(statements)

    async def fetch(self, statement: str, *bindings: Any) -> list[Any]:
        """As the region's role, in its schema."""
        connection = await asyncpg.connect(
            self.url.partition("?")[0], server_settings={"search_path": self.name}
        )
        try:
            return list(await connection.fetch(statement, *bindings))
        finally:
            await connection.close()

    def open(self, region: str = "tokyo", deployment: str = "shop", node: int = 1) -> PostgresStore:
        return open_postgresql(self.url, region=region, deployment=deployment, node=node)

    async def refuse_writes(self, store: Store) -> None:
        """As a server that became a standby."""
        await self.execute(f"ALTER ROLE {self.name} SET default_transaction_read_only = on")
        await self.end_connections()

    async def accept_writes(self, store: Store) -> None:
        await self.execute(f"ALTER ROLE {self.name} RESET default_transaction_read_only")
        await self.end_connections()

    async def end_connections(self) -> None:
        await self.administrator.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.name}'"
        )
