"""A region's store in PostgreSQL, 16 or later, which any number of the region's nodes share.

Documents lie in `_doc_<collection>(key, doc, meta)`. `doc` is of type json, not jsonb: that keeps the text as it was
written, byte for byte, and takes half the time to write.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atoll.causality.types import Generation, Stamp
from atoll.errors import (
    AtollError,
    SerializationConflict,
    StoreError,
    StoreLocked,
    StoreUnwritable,
    Unavailable,
)
from atoll.store import queries
from atoll.store.port import AuditRow, Chunk, Condition, Row, Shape, StoreStatistics, Wanted
from atoll.store.postgresql import contents as postgresql_contents
from atoll.store.postgresql import sql
from atoll.store.postgresql import views as postgresql_views
from atoll.store.postgresql.database import Database, hang_up, lock_number
from atoll.store.postgresql.journal import PostgresJournal
from atoll.store.postgresql.migration import prepare
from atoll.store.postgresql.sql import Bound, given_all, kept
from atoll.store.postgresql.transaction import PostgresTransaction
from atoll.store.postgresql.url import database_url
from atoll.store.postgresql.watch import Watch, decode_positions, told
from atoll.store.queries import PageQuery, SqlStore
from atoll.store.refusals import unknown_collection

if TYPE_CHECKING:
    import asyncpg

_POSITIONS = "SELECT positions FROM _region"
_RAISE_COUNTER = """
INSERT INTO _counters AS held (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = greatest(held.value, excluded.value)
"""
_ADVANCE_COUNTER = """
INSERT INTO _counters AS held (name, value)
SELECT $1, $2 WHERE $3 = (SELECT regexp_replace(value, '/[^/]*$', '') FROM _settings WHERE name = 'history')
ON CONFLICT (name) DO UPDATE SET value = held.value + excluded.value RETURNING value
"""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = left($1, 63) AND datname = current_database()
AND usename = current_user AND pid <> pg_backend_pid()
"""
_LOOKS = 15
_BETWEEN_LOOKS_S = 0.2
_TAKE_UP = """
INSERT INTO _settings (name, value) VALUES ('history', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_LEASE = """
INSERT INTO _leases AS held (name, holder, run, until)
SELECT name, $2, $4, now() + make_interval(secs => $3) FROM unnest($1::text[]) AS wanted (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, run = excluded.run, until = excluded.until,
    generation = held.generation + CASE WHEN held.run = excluded.run THEN 0 ELSE 1 END
WHERE held.holder = excluded.holder OR held.until < now() RETURNING name, generation
"""
_GIVE_BACK = "UPDATE _leases SET until = '-infinity' WHERE name = ANY ($1::text[]) AND run = $2"
_GIVE_ALL_BACK = "UPDATE _leases SET until = '-infinity' WHERE run = $1"


def open_postgresql(url: str, *, region: str, deployment: str, node: int = 1) -> PostgresStore:
    """The store at `url`; it connects when its collections are opened. Raises ConfigError for a senseless URL.

    `node` is the number of this one among the region's: what it held before it was restarted is still its own.
    """
    return PostgresStore(Database(database_url(url), region=region, deployment=deployment), node)


class PostgresStore(SqlStore, PostgresJournal):
    """`Store` on PostgreSQL; made by `open_postgresql`."""

    prefix = "_"
    audit_columns = AuditRow._fields
    document = "doc"
    places = ("$1", "$2")

    def __init__(self, database: Database, node: int = 1) -> None:
        self.database = database
        self.holder = f"node {node}"
        self._run = uuid.uuid4().hex[:12]
        self.channel = f"atoll_{lock_number('atoll', database.schema) & (1 << 64) - 1:x}"
        self.transaction_lock = lock_number("atoll", database.schema, "turn")
        self.crowded_until_s = 0.0
        """Until then other nodes are likely to come in between, by the event loop's clock."""
        self._collections: set[str] = set()
        self._indexed: dict[str, frozenset[str]] = {}
        self._writer: asyncpg.Connection[Any] | None = None
        self._followers: list[Callable[[Mapping[str, int]], None]] = []
        self._watch: asyncio.Task[None] | None = None

    @property
    def warning(self) -> str:
        """What is unsafe about the server; empty when nothing is."""
        return self.database.warning

    async def open_collections(self, names: Iterable[str]) -> None:
        """Raises ConfigError, as `Database.prepare` does."""
        missing = sorted(set(names) - self._collections)
        if self._watch is None:
            await prepare(self.database)
        if missing:
            await self._make_tables(missing)
        self._collections.update(missing)
        if self._watch is None:
            watch = Watch(self.database, self.channel, self._run, self._moved)
            self._watch = asyncio.create_task(watch.run(), name="watch on other nodes")

    async def _make_tables(self, names: Sequence[str]) -> None:
        found = await self.database.rows(
            "SELECT name FROM unnest($1::text[], $2::text[]) AS wanted (name, held) WHERE to_regclass(held) IS NULL",
            list(names),
            [sql.table_of(name) for name in names],
        )
        for row in found:
            # Two nodes that start at once may both try: the catalog then refuses one of them.
            for attempt in range(2):
                try:
                    await self.database.rows(sql.create_table(row["name"]))
                    break
                except AtollError:
                    if attempt:
                        raise

    async def declare(self, shapes: Sequence[Shape]) -> None:
        await postgresql_views.declare(self.database, shapes)
        self._indexed = {shape.collection: frozenset(shape.indexes) for shape in shapes}

    def follow(
        self,
        follower: Callable[[Mapping[str, int]], None],
        history_changed: Callable[[str], None] | None = None,
    ) -> None:
        self._followers.append(follower)
        if history_changed is not None:
            self.database.history_changed.append(history_changed)

    async def history(self) -> str:
        await self.database.rows("SELECT")  # over a connection of now
        return str(self.database.history or "")

    async def history_taken_up(self) -> str:
        rows = await self.database.rows("SELECT value FROM _settings WHERE name = 'history'")
        return str(rows[0][0]) if rows else ""

    async def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        for name, value in counters.items():
            await self.database.rows(_RAISE_COUNTER, name, value)
        if history != await self.history():
            raise SerializationConflict("the database has been replaced again meanwhile")
        await self.database.rows(_TAKE_UP, history)

    def told(self, positions: bytes) -> str:
        """What a commit tells the other nodes."""
        return told(self._run, positions)

    def _moved(self, positions: Mapping[str, int]) -> None:
        for follower in self._followers:
            follower(positions)

    # -- documents -------------------------------------------------------------------------------------

    def begin(self, wanted: Wanted) -> PostgresTransaction:
        return PostgresTransaction(self, wanted)

    async def get(self, collection: str, key: str) -> Row | None:
        rows = await self.database.rows(
            f"SELECT doc, meta FROM {self.table(collection)} WHERE key = $1", kept(key)
        )
        return Row(*rows[0]) if rows else None

    async def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        joined = f"_region LEFT JOIN {self.table(collection)} AS held ON held.key = $1"
        rows = await self.database.rows(f"SELECT doc, meta, positions FROM {joined}", kept(key))
        doc, meta, positions = rows[0]
        return None if meta is None else Row(doc, meta), decode_positions(positions)

    def bound(self) -> Bound:
        return Bound()

    async def found(self, sql: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        return [given_all(row) for row in await self.database.rows(sql, *values)]

    async def removed(self, delete: str, *values: Any) -> int:
        counted = f"WITH gone AS ({delete} RETURNING 1) SELECT count(*) FROM gone"
        return int((await self.database.change(counted, *values))[0][0])

    async def page(self, asked: PageQuery) -> list[Sequence[Any]]:
        return await self.found(sql.page_sql(asked), asked.bound.values)

    async def page_at(
        self, asked: PageQuery, *, searching: bool = False
    ) -> tuple[list[Sequence[Any]], Mapping[str, int]]:
        page = sql.page_sql(asked)
        joined = f"SELECT positions, held.* FROM _region LEFT JOIN ({page}) AS held ON true ORDER BY held.key"
        rows = await self.found(joined, asked.bound.values)
        return [row[1:] for row in rows if row[1] is not None], decode_positions(rows[0][0])

    def condition(self, collection: str, condition: Condition, bound: queries.Bound) -> str:
        indexed = condition.field in self._indexed.get(collection, ()) and condition.op not in (
            "ne",
            "contains",
        )
        return sql.condition_sql(condition, bound, indexed=indexed)

    def table(self, collection: str) -> str:
        """Raises UnknownCollection."""
        if collection not in self._collections:
            raise unknown_collection(collection)
        return sql.table_of(collection)

    # -- journal ---------------------------------------------------------------------------------------

    async def positions(self) -> dict[str, int]:
        return dict(sorted(decode_positions((await self.database.rows(_POSITIONS))[0][0]).items()))

    async def clock(self) -> Stamp:
        return Stamp((await self.database.rows("SELECT clock FROM _region"))[0][0])

    async def schemas(self) -> dict[str, str]:
        return dict(
            await self.database.rows("SELECT collection, fingerprint FROM _schemas ORDER BY collection")
        )

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        sql = "SELECT key, answer FROM _remembered WHERE key = ANY ($1::text[])"
        rows = await self.database.rows(sql, [kept(key) for key in keys])
        return dict(map(given_all, rows))

    async def raise_counter(self, name: str, value: int) -> None:
        await self.database.rows(_RAISE_COUNTER, name, value)

    async def advance_counter(self, name: str, by: int) -> int:
        if self.database.history is None:
            await self.history()
        line = str(self.database.history or "").rpartition("/")[0]
        rows = await self.database.change(_ADVANCE_COUNTER, name, by, line)
        if not rows:
            raise Unavailable(
                f"{self.database.where} may have lost assigned numbers; the region asks its peers first"
            )
        return int(rows[0][0])

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, Generation]:
        return dict(await self.database.rows(_LEASE, list(names), self.holder, for_s, self._run))

    async def holders(self) -> Mapping[str, str]:
        return dict(await self.database.rows("SELECT name, holder FROM _leases WHERE until >= now()"))

    async def give_back(self, names: Sequence[str]) -> None:
        await self.database.rows(_GIVE_BACK, list(names), self._run)

    async def contents(self) -> AsyncGenerator[Chunk, None]:
        connection = await self.database.connect(long=True)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for chunk in postgresql_contents.chunks_of(connection):
                    yield chunk
        except Exception as error:
            raise self.database.failure(error) from error
        finally:
            await hang_up(connection)

    async def fill(self, chunks: AsyncIterable[Chunk]) -> None:
        await self._fill_in_one(chunks, clear=False)

    async def replace(self, chunks: AsyncIterable[Chunk]) -> None:
        """As `fill`, in the place of all that is held, which stays if anything is raised.

        Raises StoreLocked while a node of the region is connected.
        """
        await self._fill_in_one(chunks, clear=True)

    async def _fill_in_one(self, chunks: AsyncIterable[Chunk], *, clear: bool) -> None:
        await prepare(self.database)
        connection = await self.database.connect(long=True)
        try:
            if clear:
                await self._check_alone(connection)
            async with connection.transaction():
                if clear:
                    await postgresql_contents.clear(connection)
                elif not await postgresql_contents.is_empty(connection):
                    raise StoreError(
                        f"{self.database.where} is not empty: only an empty one can be filled; "
                        "`atoll restore --force` replaces it, and data that no peer has is then lost"
                    )
                await self._fill(connection, chunks)
        except Exception as error:
            raise self.database.failure(error, writing=True) from error
        finally:
            await hang_up(connection)

    async def _check_alone(self, connection: asyncpg.Connection[Any]) -> None:
        for _ in range(_LOOKS):
            others = await connection.fetchval(_OTHERS, f"atoll {self.database.region}")
            if not others:
                return
            await asyncio.sleep(_BETWEEN_LOOKS_S)  # one that was just closed may not be gone yet
        raise StoreLocked(
            f"{self.database.where}: a node of {self.database.region} is connected: end all nodes of the region first"
        )

    async def _fill(self, connection: asyncpg.Connection[Any], chunks: AsyncIterable[Chunk]) -> None:
        """Every piece as a commit of its own, in one transaction."""
        transaction = PostgresTransaction(self, Wanted())
        transaction.onto(connection)
        async for chunk in chunks:
            for name in chunk.commit.documents:
                await connection.execute(sql.create_table(name))
            self._collections.update(chunk.commit.documents)
            await transaction.commit(chunk.commit)
            transaction.onto(connection, after=chunk.commit)
            await connection.executemany(_RAISE_COUNTER, chunk.counters.items())

    async def statistics(self) -> StoreStatistics:
        documents: dict[str, int] = {}
        tombstones: dict[str, int] = {}
        for name in sorted(self._collections):
            rows = await self.database.long_rows(f"SELECT count(doc), count(*) FROM {self.table(name)}")
            documents[name], tombstones[name] = rows[0][0], rows[0][1] - rows[0][0]
        totals = await self.database.rows(
            "SELECT (SELECT count(*) FROM _audit), (SELECT count(*) FROM _parked), "
            "(SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
            "WHERE relnamespace = $1::text::regnamespace AND relkind = 'r')",
            f'"{self.database.schema}"',
        )
        return StoreStatistics(documents, tombstones, *totals[0])

    async def checkpoint(self) -> None:
        """Nothing: PostgreSQL checkpoints by itself."""

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._writer is not None:
            await hang_up(self._writer)
            self._writer = None
        if not self.database.closed and self._watch is not None:
            with contextlib.suppress(AtollError):  # another node need not wait until they run out
                await self.database.rows(_GIVE_ALL_BACK, self._run)
        await self.database.close()

    # -- the connection that commits -------------------------------------------------------------------

    async def writer(self) -> asyncpg.Connection[Any]:
        if self._writer is not None and self.database.outdated(self._writer):
            self.drop_writer()
        if self._writer is None or self._writer.is_closed():
            self._writer = await self.database.connect()
        if self.database.is_standby(self._writer):
            self.drop_writer()  # once it is promoted, the next connection tells which history that is
            raise StoreUnwritable(
                f"{self.database.where} cannot be written: it is a standby; point `store` at the primary, or promote "
                "this one. Reads continue",
                reason="it is read-only",
                store=self.database.url.shown,
            )
        return self._writer

    def drop_writer(self) -> None:
        """With it goes the lock, and what was under way is the server's to finish."""
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None
