"""Connections to a region's PostgreSQL database, and what its errors mean.

Timeouts bound whatever can go wrong. A call ends within `CALL_S`, and a lock is waited for `LOCK_MS`. The server
notices a client whose machine is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from atoll.errors import (
    AtollError,
    ConfigError,
    Indefinite,
    SerializationConflict,
    StoreCorrupt,
    StoreError,
    StoreUnreachable,
    StoreUnwritable,
)
from atoll.store.postgresql.history import WHICH, History, history_of
from atoll.store.postgresql.sql import quoted_name
from atoll.store.postgresql.url import DatabaseUrl

if TYPE_CHECKING:
    import asyncpg

CALL_S = 10.0
CONNECT_S = 5.0
CONNECT_EACH_S = 2.0
"""To one of several hosts: the machine of one that failed may not even refuse."""
LOCK_MS = 2_000
LONG_S = 3_600.0
"""For migrations, views and indexes."""
_READERS = 6
_STATEMENTS_KEPT = 512
_SETTINGS = {
    "lock_timeout": str(LOCK_MS),
    "statement_timeout": str(int(CALL_S * 1000)),
    "idle_in_transaction_session_timeout": "5000",
    "client_connection_check_interval": "1000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    "jit": "off",
}


def driver() -> Any:
    """asyncpg. Raises ConfigError where it is not installed."""
    try:
        import asyncpg
    except ImportError:
        raise ConfigError(
            "a store on PostgreSQL needs the driver asyncpg: pip install 'atoll[postgresql]'"
        ) from None
    return asyncpg


def lock_number(*names: str) -> int:
    """An advisory lock's number, the same in every process."""
    digest = hashlib.blake2b("\x00".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class _Outdated(Exception):
    """What was read is of a server whose place another one has taken."""


class Database:
    """One region's schema, and this node's connections to it. Belongs to one event loop."""

    def __init__(self, url: DatabaseUrl, *, region: str, deployment: str) -> None:
        self.url = url
        self.region = region
        self.deployment = deployment
        self.schema = url.schema_for(region)
        self.where = f"{url.shown} (schema {self.schema})"
        self.warning = ""
        """What is unsafe about the server's settings; empty when nothing is."""
        self.closed = False
        self._driver = driver()
        self.history: History | None = None
        """That the newest connection to a primary saw."""
        self.history_changed: list[Callable[[str], None]] = []
        """Called when it changes."""
        self._hosts = list(url.hosts)
        self._timelines: dict[str, int] = {}
        """system → the highest timeline that was seen of it."""
        self._histories: WeakKeyDictionary[asyncpg.Connection[Any], History | None] = WeakKeyDictionary()
        self._idle: list[asyncpg.Connection[Any]] = []
        self._readers = asyncio.Semaphore(_READERS)

    # -- connections -----------------------------------------------------------------------------------

    async def connect(self, *, long: bool = False) -> asyncpg.Connection[Any]:
        """To the first host that fits, the one that did last in front.

        Raises StoreUnreachable, and ConfigError for what waiting does not mend.
        """
        if self.closed:
            raise StoreError("the store is closed")
        failures: list[str] = []
        for host in tuple(self._hosts):
            try:
                connection = await self._connect_to(host, long=long)
            except StoreUnreachable as error:
                failures.append(error.message)
                continue
            if host != self._hosts[0]:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
            return connection
        raise StoreUnreachable("; ".join(dict.fromkeys(failures)), store=self.url.shown)

    async def _connect_to(self, host: str, *, long: bool = False) -> asyncpg.Connection[Any]:
        connection = await self._opened(host, long=long)
        try:
            await connection.set_type_codec(
                "json", schema="pg_catalog", encoder=_as_it_is, decoder=_as_it_is, format="binary"
            )
            synchronous, history = await self._identify(connection)
            # Stronger settings than `on` are the operator's choice; a weaker one would lose acknowledged writes.
            if synchronous == "off":
                await connection.execute("SET synchronous_commit = on")
            self._note(connection, history)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, Exception):
                raise self.failure(error) from None
            raise
        return connection

    async def _opened(self, host: str, *, long: bool) -> asyncpg.Connection[Any]:
        settings = {
            **_SETTINGS,
            "application_name": f"atoll {self.region}",
            "search_path": quoted_name(self.schema),
        }
        if long:
            settings |= {"statement_timeout": "0", "lock_timeout": "60000"}
        wait_s = CONNECT_S if len(self._hosts) == 1 else CONNECT_EACH_S
        try:
            async with asyncio.timeout(wait_s):
                connection: asyncpg.Connection[Any] = await self._driver.connect(
                    host,
                    timeout=wait_s,
                    command_timeout=LONG_S if long else CALL_S + 1,
                    statement_cache_size=_STATEMENTS_KEPT,
                    max_cached_statement_lifetime=0,
                    server_settings=settings,
                )
        except (
            self._driver.InvalidPasswordError,
            self._driver.InvalidAuthorizationSpecificationError,
        ) as error:
            raise ConfigError(
                f"{self.url.shown} refuses this role or password ({error}): correct `store`"
            ) from None
        except self._driver.InvalidCatalogNameError as error:
            raise ConfigError(f"{self.url.shown}: {error}: create the database, or correct `store`") from None
        except (
            OSError,
            TimeoutError,
            self._driver.PostgresError,
            self._driver.InterfaceError,
            self._driver.InternalClientError,
        ) as error:
            raise StoreUnreachable(
                f"{self.url.shown} does not answer ({_said(error)}); it is tried again", store=self.url.shown
            ) from None
        return connection

    # -- which history ---------------------------------------------------------------------------------

    async def _identify(self, connection: asyncpg.Connection[Any]) -> tuple[str, History | None]:
        """Its `synchronous_commit`, and the history that it sees; None of a standby."""
        try:
            found = await connection.fetchrow(WHICH)
        except self._driver.PostgresError as error:
            if (error.sqlstate or "")[:2] not in ("42", "0A"):
                raise
            # An engine that only speaks the protocol: what it lost shows by the region's position alone.
            return await connection.fetchval("SHOW synchronous_commit"), History()
        return found["synchronous"], history_of(found)

    def _note(self, connection: asyncpg.Connection[Any], history: History | None) -> None:
        """Raises StoreUnreachable for a primary whose place another one has taken."""
        self._histories[connection] = history
        if history is None:
            return
        newest = self._timelines.get(history.system, 0)
        if history.timeline < newest:
            raise StoreUnreachable(
                f"{self.url.shown}: a server is on timeline {history.timeline}, and {newest} was seen before: "
                "it is an old primary that came back; shut it down, or make it a standby of the new one",
                store=self.url.shown,
            )
        self._timelines[history.system] = history.timeline
        if history != self.history:
            self._move_to(history)

    def _move_to(self, history: History) -> None:
        """Nothing that sees another history is believed any more."""
        self.history = history
        idle, self._idle = self._idle, []
        for each in idle:
            each.terminate()
        for listener in self.history_changed:
            listener(str(history))

    def outdated(self, connection: asyncpg.Connection[Any]) -> bool:
        """Whether what it sees is no longer the region's: another server has taken the place of this one."""
        return self.history is not None and self._histories.get(connection) != self.history

    def history_seen_by(self, connection: asyncpg.Connection[Any]) -> str:
        return str(self._histories.get(connection) or "")

    def is_standby(self, connection: asyncpg.Connection[Any]) -> bool:
        return self._histories.get(connection, History()) is None

    async def survey(self) -> None:
        """Ask all hosts, where there are several, so that an old primary is told from its successor."""
        if len(self._hosts) > 1:
            await asyncio.gather(*(self._look_at(host) for host in tuple(self._hosts)))

    async def _look_at(self, host: str) -> None:
        with contextlib.suppress(AtollError):
            connection = await self._opened(host, long=False)
            try:
                history = (await self._identify(connection))[1]
                if history is not None and history.timeline > self._timelines.get(history.system, 0):
                    self._timelines[history.system] = history.timeline
                    if self.history is not None:
                        self._move_to(history)
            except Exception as error:
                raise self.failure(error) from None
            finally:
                await hang_up(connection)

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A connection for one call; it is kept for the next one unless it broke or was cut."""
        async with self._readers:
            connection = None
            while self._idle and connection is None:
                kept = self._idle.pop()
                connection = None if kept.is_closed() else kept
            if connection is None:
                connection = await self.connect()
            try:
                yield connection
            except self._driver.PostgresError:
                self._keep(connection)
                raise
            except BaseException:
                connection.terminate()
                raise
            self._keep(connection)
            if self.outdated(connection):
                raise _Outdated("another server has replaced it meanwhile")

    def _keep(self, connection: asyncpg.Connection[Any]) -> None:
        if self.closed or self.outdated(connection):
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)

    async def rows(self, sql: str, *bindings: Any) -> list[Any]:
        """Of a statement that may be sent twice: a connection that turns out to be broken is replaced once."""
        for attempt in range(2):
            try:
                async with self.reader() as connection:
                    return list(await connection.fetch(sql, *bindings))
            except AtollError:
                raise
            except Exception as error:
                failure = self.failure(error)
                if attempt or not isinstance(failure, StoreUnreachable) or not self.lost(error):
                    raise failure from error
        raise AssertionError

    async def long_rows(self, sql: str, *bindings: Any) -> list[Any]:
        """Of a statement that may read everything, and take as long as that takes."""
        connection = await self.connect(long=True)
        try:
            return list(await connection.fetch(sql, *bindings))
        except Exception as error:
            raise self.failure(error) from error
        finally:
            await hang_up(connection)

    async def change(self, sql: str, *bindings: Any) -> list[Any]:
        """As `rows`, for a statement that must not be sent twice. Raises Indefinite when it may have happened."""
        try:
            async with self.reader() as connection:
                return list(await connection.fetch(sql, *bindings))
        except AtollError:
            raise
        except Exception as error:
            raise self.failure(error, writing=True) from error

    async def close(self) -> None:
        self.closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await hang_up(connection)

    # -- errors ----------------------------------------------------------------------------------------

    def lost(self, error: BaseException) -> bool:
        """Whether the connection is gone, and with it the answer."""
        if isinstance(error, self._driver.PostgresError):
            state = error.sqlstate or ""
            return state.startswith("08") or state in ("57P01", "57P02", "57P03", "57P05")
        return isinstance(
            error,
            (OSError, TimeoutError, _Outdated, self._driver.InterfaceError, self._driver.InternalClientError),
        )

    def failure(self, error: BaseException, *, writing: bool = False) -> AtollError:
        """The error to raise for one of the driver's. `writing`: a commit was under way."""
        if isinstance(error, AtollError):
            return error
        details = {"store": self.url.shown}
        if self.lost(error):
            if writing:
                return Indefinite(
                    f"{self.url.shown} went away during a commit ({_said(error)}): the write may have happened",
                    **details,
                )
            return StoreUnreachable(
                f"{self.url.shown} does not answer ({_said(error)}); it is tried again", **details
            )
        state = getattr(error, "sqlstate", None) or ""
        match state[:2], state:
            case ("40", _):
                return SerializationConflict(f"another node's transaction went first ({_said(error)})")
            case (_, "23505"):
                return StoreCorrupt(
                    f"{self.where} refused a row that contradicts what it holds ({_said(error)}); nothing was "
                    "changed: something else may have written to it",
                    **details,
                )
            case (_, "25006"):
                reason, remedy = "it is read-only", "point `store` at the primary, or promote this one"
            case (_, "53100"):
                reason, remedy = "its disk is full", "free some space: writes then work again by themselves"
            case (_, "42501"):
                reason, remedy = "the role lacks a right", f"make the role the owner of schema {self.schema}"
            case (_, "58030"):
                reason, remedy = "its disk fails", "check the disk and the server's log"
            case ("XX", _):
                return StoreCorrupt(
                    f"{self.where} is damaged ({_said(error)}): rebuild the region from its peers"
                )
            case ("53" | "55" | "57", _):
                return StoreUnreachable(
                    f"{self.url.shown} is too busy ({_said(error)}); it is tried again", **details
                )
            case _:
                return StoreError(f"{self.where}: {_said(error)}", **details)
        return StoreUnwritable(
            f"{self.where} cannot be written: {reason} ({_said(error)}); {remedy}. Reads continue",
            reason=reason,
            **details,
        )


async def hang_up(connection: asyncpg.Connection[Any]) -> None:
    """Close it in good order if it answers, else by force."""
    try:
        await connection.close(timeout=1.0)
    except Exception:
        connection.terminate()


def _as_it_is(value: bytes) -> bytes:
    return value


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
