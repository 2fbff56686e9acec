"""A PostgreSQL server for each of the demo's regions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from atoll.testing.postgres_server import PostgresServer

_ROLE = "shop"


class Databases:
    """Started by `start`, ended by `close`; each with a role for the region that owns its schema and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.told = ""
        """What was started, for people."""

    def start(self, regions: Sequence[str]) -> dict[str, str]:
        """region → the URL of its store. Raises Unavailable where there is no PostgreSQL."""
        urls, started = {}, []
        for region in regions:
            server = self._stack.enter_context(PostgresServer(self._folder / f"postgresql-{region}"))
            server.sql(f"CREATE ROLE {_ROLE} LOGIN")
            server.create_database(_ROLE)
            server.sql(f"CREATE SCHEMA atoll_{region} AUTHORIZATION {_ROLE}", _ROLE)
            urls[region] = server.url(_ROLE, role=_ROLE)
            started.append(f"{region} at port {server.port}")
            version = server.version
        self.told = f"PostgreSQL {version}: {', '.join(started)}"
        return urls

    def close(self) -> None:
        self._stack.close()
