"""The PostgreSQL that a region stands on, killed under its load: started again, or its place taken by a standby.

All servers fsync. A standby is promoted as soon as the last process of the old primary is gone, as whatever promotes
in production has to make sure of first; how long that takes counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import Unavailable
from atoll.testing.postgres_server import PostgresServer
from bench.peers import NotMeasured
from bench.served import wait_for

KINDS: dict[str, str] = {
    "restart": "database, kill -9",
    "synchronous": "failover to a synchronous standby",
    "asynchronous": "failover to an asynchronous standby",
}
_DATABASE = "atoll"
_STANDBY = "second"


@dataclass(frozen=True, slots=True)
class Database:
    """What one region keeps its documents in."""

    primary: PostgresServer
    standby: PostgresServer | None

    @property
    def url(self) -> str:
        """Of both servers, as a region's `store`."""
        if self.standby is None:
            return self.primary.url(_DATABASE)
        here = f"127.0.0.1:{self.primary.port}"
        return self.primary.url(_DATABASE).replace(here, f"{here},127.0.0.1:{self.standby.port}")

    async def fail(self) -> None:
        """Return when a database takes writes again."""
        await asyncio.to_thread(self.primary.kill)
        if self.standby is None:
            await asyncio.to_thread(self.primary.start)
        else:
            await asyncio.to_thread(self.standby.promote)


@contextmanager
def running(folder: Path, kind: str) -> Iterator[Database]:
    """One of KINDS. Raises NotMeasured where there is no PostgreSQL, or it does not do what is needed."""
    with ExitStack() as stack:
        try:
            database = _started(stack, folder, kind)
        except Unavailable as error:
            raise NotMeasured(error.message.splitlines()[0]) from error
        yield database


def _started(stack: ExitStack, folder: Path, kind: str) -> Database:
    primary = stack.enter_context(PostgresServer(folder / "first"))
    primary.create_database(_DATABASE)
    if kind == "restart":
        return Database(primary, None)
    standby = stack.enter_context(primary.standby(folder / _STANDBY, name=_STANDBY))
    if kind == "synchronous":
        primary.reconfigure("synchronous_standby_names", _STANDBY)
    wanted = "sync" if kind == "synchronous" else "async"
    wait_for(
        lambda: (
            primary.sql("SELECT state, sync_state FROM pg_stat_replication").strip() == f"streaming|{wanted}"
        ),
        "the standby does not follow",
    )
    return Database(primary, standby)
