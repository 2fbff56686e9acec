"""A region's store in PostgreSQL, 16 or later, which any number of the region's nodes share.

A turn is two statements. The first reads the region's row and what the batch addresses; the second is the whole
commit, and a compare-and-set on the region's row: it does nothing if anybody has committed since. So seqs are dense
however long a node was paused in between. A node that lost a turn takes an advisory lock for the next ones, as do the
others that it comes between: they then wait for each other instead of losing work. A lock that nobody uses for two
seconds is taken away.

Documents lie in `_doc_<collection>(key, doc, meta)`. `doc` is of type json, not jsonb: that keeps the text as it was
written, byte for byte, and takes half the time to write.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.errors import (
    AtollError,
    StoreError,
    StoreLocked,
    StoreUnreachable,
    StoreUnwritable,
    TurnLost,
    Unavailable,
    UnknownCollection,
)
from atoll.store import postgresql_contents, postgresql_views
from atoll.store import postgresql_sql as sql
from atoll.store.port import (
    MEASURED_SEGMENTS,
    AuditFilter,
    AuditRow,
    Commit,
    Condition,
    JournalExtent,
    Numbered,
    Parked,
    Piece,
    Row,
    Segment,
    Shape,
    StoreStatistics,
    Wanted,
)
from atoll.store.postgresql_database import Database, hang_up, lock_number
from atoll.store.postgresql_sql import audit_row, given, kept
from atoll.store.postgresql_url import database_url
from atoll.store.postgresql_watch import Watch, decode_positions, encode_positions, told
from atoll.store.scanning import prefix_end

if TYPE_CHECKING:
    import asyncpg

_FORGOTTEN_AT_ONCE = 5_000
_CROWDED_S = 2.0
"""For so long after a lost turn a node takes the lock for its turns."""
_decode_schemas = msgspec.json.Decoder(dict[str, str]).decode
_LOCK_WAITS = 4
"""How often `LOCK_MS` is waited for the turn before the writers are told."""

_POSITIONS = "SELECT positions FROM _region"
_JOURNAL = """
SELECT id, origin, first_seq, last_seq, body FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY id) AS bytes_until, row_number() OVER (ORDER BY id) AS place
    FROM (SELECT * FROM _journal WHERE id > $1 ORDER BY id LIMIT $2) AS next
) AS measured WHERE place = 1 OR bytes_until <= $3 ORDER BY id
"""
_JOURNAL_START = """
SELECT min(first.id) FROM unnest($1::text[], $2::bigint[]) AS wanted (origin, seq) CROSS JOIN LATERAL (
    SELECT id FROM _journal WHERE origin = wanted.origin AND last_seq > wanted.seq ORDER BY last_seq LIMIT 1
) AS first
"""
_SEGMENT = """
SELECT origin, first_seq, last_seq, body FROM _journal WHERE origin = $1 AND last_seq >= $2 ORDER BY last_seq LIMIT 1
"""
_JOURNAL_EXTENT = """
WITH bounds AS (SELECT coalesce(min(id), tail + 1) AS first, tail FROM _journal
    RIGHT JOIN (SELECT journal_tail AS tail FROM _region) AS region ON true GROUP BY tail)
SELECT first - 1, tail, coalesce((
    SELECT sum(octet_length(body)) * (tail - first + 1) / count(*) FROM _journal WHERE id IN (
        SELECT generate_series(first, tail, greatest(1, (tail - first + $1) / $1)))
), 0)::bigint FROM bounds
"""
_TRUNCATE = """
WITH gone AS (DELETE FROM _journal WHERE id IN (
    SELECT id FROM _journal WHERE id <= $1 AND id < (SELECT max(id) FROM _journal) ORDER BY id LIMIT $2
) RETURNING 1) SELECT count(*) FROM gone
"""
_RECORDED = f"""
SELECT record.* FROM unnest($2::text[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT {sql.AUDIT_COLUMNS} FROM _audit WHERE collection = $1 AND key = wanted.key
    ORDER BY stamp_ms DESC, id DESC LIMIT $3
) AS record
"""
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
_FORGET_ANSWERS = """
WITH gone AS (DELETE FROM _remembered WHERE key IN
    (SELECT key FROM _remembered WHERE at_ms < $1 ORDER BY at_ms LIMIT $2) RETURNING 1)
SELECT count(*) FROM gone
"""
_FORGET_RECORDS = """
WITH gone AS (DELETE FROM _audit WHERE id IN
    (SELECT id FROM _audit WHERE status <> 'manual' AND stamp_ms < $1 ORDER BY stamp_ms, id LIMIT $2) RETURNING 1)
SELECT count(*) FROM gone
"""
_LEASE = """
INSERT INTO _leases AS held (name, holder, until)
SELECT name, $2, now() + make_interval(secs => $3) FROM unnest($1::text[]) AS wanted (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE held.holder = excluded.holder OR held.until < now() RETURNING name
"""
_TAKE_AWAY = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity AS holder USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32) | objid::bigint = $1::bigint
AND holder.state = 'idle' AND holder.state_change < now() - interval '1 second'
"""


def open_postgresql(url: str, *, region: str, deployment: str, node: int = 1) -> PostgresStore:
    """The store at `url`; it connects when its collections are opened. Raises ConfigError for a senseless URL.

    `node` is the number of this one among the region's: what it held before it was restarted is still its own.
    """
    return PostgresStore(Database(database_url(url), region=region, deployment=deployment), node)


class PostgresStore:
    """`Store` on PostgreSQL; made by `open_postgresql`."""

    def __init__(self, database: Database, node: int = 1) -> None:
        self.database = database
        self.holder = f"node {node}"
        self._run = uuid.uuid4().hex[:12]
        self.channel = f"atoll_{lock_number('atoll', database.schema) & (1 << 64) - 1:x}"
        self.turn_lock = lock_number("atoll", database.schema, "turn")
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
            await self.database.prepare()
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
        self, follower: Callable[[Mapping[str, int]], None], turned: Callable[[str], None] | None = None
    ) -> None:
        self._followers.append(follower)
        if turned is not None:
            self.database.turned.append(turned)

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
            raise TurnLost("the database has changed once more meanwhile")
        await self.database.rows(_TAKE_UP, history)

    def told(self, positions: bytes) -> str:
        """What a commit tells the other nodes."""
        return told(self._run, positions)

    def _moved(self, positions: Mapping[str, int]) -> None:
        for follower in self._followers:
            follower(positions)

    # -- documents -------------------------------------------------------------------------------------

    def begin(self, wanted: Wanted) -> PostgresTurn:
        return PostgresTurn(self, wanted)

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

    async def scan(
        self,
        collection: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        where: Sequence[Condition] = (),
    ) -> list[tuple[str, Row]]:
        bound = sql.Bound()
        terms = ["doc IS NOT NULL"]
        if after is not None and after >= prefix:
            terms.append(f"key > {bound.place(kept(after), 'text')}")
        elif prefix:
            terms.append(f"key >= {bound.place(kept(prefix), 'text')}")
        end = prefix_end(prefix)
        if end is not None:
            terms.append(f"key < {bound.place(kept(end), 'text')}")
        indexed = self._indexed.get(collection, frozenset())
        terms += [
            sql.condition_sql(
                each, bound, indexed=each.field in indexed and each.op not in ("ne", "contains")
            )
            for each in where
        ]
        return await self._scan(collection, terms, bound, limit)

    async def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, Row]]:
        bound = sql.Bound()
        terms = [] if after is None else [f"key > {bound.place(kept(after), 'text')}"]
        return await self._scan(collection, terms, bound, limit)

    async def _scan(
        self, collection: str, terms: Sequence[str], bound: sql.Bound, limit: int
    ) -> list[tuple[str, Row]]:
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        most = bound.place(limit, "bigint")
        rows = await self.database.rows(
            f"SELECT key, doc, meta FROM {self.table(collection)}{where} ORDER BY key LIMIT {most}",
            *bound.values,
        )
        return [(given(key), Row(doc, meta)) for key, doc, meta in rows]

    def table(self, collection: str) -> str:
        """Raises UnknownCollection."""
        if collection not in self._collections:
            raise UnknownCollection(
                f"the store has no table for collection {collection!r}: open_collections makes it",
                collection=collection,
            )
        return sql.table_of(collection)

    # -- journal ---------------------------------------------------------------------------------------

    async def positions(self) -> dict[str, int]:
        return dict(sorted(decode_positions((await self.database.rows(_POSITIONS))[0][0]).items()))

    async def clock(self) -> int:
        return int((await self.database.rows("SELECT clock FROM _region"))[0][0])

    async def journal(self, after_id: int, *, limit: int = 64, limit_bytes: int = 4 << 20) -> list[Numbered]:
        rows = await self.database.rows(_JOURNAL, after_id, limit, limit_bytes)
        return [Numbered(id, Segment(*segment)) for id, *segment in rows]

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        # One origin's segments have rising ids, so its first one past the vector bounds them all.
        wanted = sorted(set(origins))
        tail = (
            await self.journal_tail()
        )  # first: what comes after it may be missed by the search, and must not be
        rows = await self.database.rows(_JOURNAL_START, wanted, [vector.get(origin, 0) for origin in wanted])
        return int(tail if rows[0][0] is None else rows[0][0] - 1)

    async def segment(self, origin: str, seq: int) -> Segment | None:
        rows = await self.database.rows(_SEGMENT, origin, seq)
        return Segment(*rows[0]) if rows and rows[0]["first_seq"] <= seq else None

    async def journal_tail(self) -> int:
        return int((await self.database.rows("SELECT journal_tail FROM _region"))[0][0])

    async def journal_extent(self) -> JournalExtent:
        return JournalExtent(*(await self.database.rows(_JOURNAL_EXTENT, MEASURED_SEGMENTS))[0])

    async def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        return int((await self.database.change(_TRUNCATE, up_to_id, limit))[0][0])

    # -- the rest --------------------------------------------------------------------------------------

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        rows = await self.database.rows(
            "SELECT key, answer FROM _remembered WHERE key = ANY ($1::text[])", [kept(key) for key in keys]
        )
        return {given(key): answer for key, answer in rows}

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        bound = sql.Bound()
        asked = (
            ("collection", wanted.collection),
            ("key", None if wanted.key is None else kept(wanted.key)),
            ("kind", wanted.kind),
            ("status", wanted.status),
        )
        terms = [f"{column} = {bound.place(value, 'text')}" for column, value in asked if value is not None]
        if wanted.origin is not None:
            terms.append(f"{bound.place(wanted.origin, 'text')} IN (loser_origin, winner_origin)")
        if wanted.since_ms is not None:
            terms.append(f"stamp_ms >= {bound.place(wanted.since_ms, 'bigint')}")
        if wanted.until_ms is not None:
            terms.append(f"stamp_ms <= {bound.place(wanted.until_ms, 'bigint')}")
        if after is not None:
            terms.append(
                f"(stamp_ms, id) < ({bound.place(after[0], 'bigint')}, {bound.place(after[1], 'text')})"
            )
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        rows = await self.database.rows(
            f"SELECT {sql.AUDIT_COLUMNS} FROM _audit{where} "
            f"ORDER BY stamp_ms DESC, id DESC LIMIT {bound.place(limit, 'bigint')}",
            *bound.values,
        )
        return [audit_row(row) for row in rows]

    async def conflict(self, id: str) -> AuditRow | None:
        rows = await self.database.rows(f"SELECT {sql.AUDIT_COLUMNS} FROM _audit WHERE id = $1", kept(id))
        return audit_row(rows[0]) if rows else None

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = "WHERE (origin, seq, change) > ($2, $3, $4)" if after is not None else ""
        rows = await self.database.rows(
            f"SELECT origin, seq, change, reason, body FROM _parked {past} ORDER BY origin, seq, change LIMIT $1",
            limit,
            *(after or ()),
        )
        return [Parked(*row)._replace(reason=given(row["reason"])) for row in rows]

    async def schemas(self) -> dict[str, str]:
        return dict(
            await self.database.rows("SELECT collection, fingerprint FROM _schemas ORDER BY collection")
        )

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """As in the port, a bounded number of rows a call, so that writers need not wait: call until 0."""
        removed = await self._delete(_FORGET_ANSWERS, remembered_before_ms, _FORGOTTEN_AT_ONCE)
        over = int((await self.database.rows("SELECT count(*) FROM _audit"))[0][0]) - audit_keep
        aged = await self._delete(_FORGET_RECORDS, audit_before_ms, _FORGOTTEN_AT_ONCE)
        removed, over = removed + aged, over - aged
        if over > 0 and aged < _FORGOTTEN_AT_ONCE:
            removed += await self._delete(
                _FORGET_RECORDS, (1 << 63) - 1, min(over, _FORGOTTEN_AT_ONCE - aged)
            )
        return removed

    async def _delete(self, statement: str, before_ms: int, most: int) -> int:
        return int((await self.database.change(statement, before_ms, most))[0][0])

    async def counter(self, name: str) -> int:
        rows = await self.database.rows("SELECT value FROM _counters WHERE name = $1", name)
        return int(rows[0][0]) if rows else 0

    async def raise_counter(self, name: str, value: int) -> None:
        await self.database.rows(_RAISE_COUNTER, name, value)

    async def advance_counter(self, name: str, by: int) -> int:
        if self.database.history is None:
            await self.history()
        line = str(self.database.history or "").rpartition("/")[0]
        rows = await self.database.change(_ADVANCE_COUNTER, name, by, line)
        if not rows:
            raise Unavailable(
                f"{self.database.where} may have lost what it gave out; the region is asking its peers first"
            )
        return int(rows[0][0])

    async def lease(self, names: Sequence[str], for_s: float) -> frozenset[str]:
        rows = await self.database.rows(_LEASE, list(names), self.holder, for_s)
        return frozenset(row[0] for row in rows)

    async def holders(self) -> Mapping[str, str]:
        return dict(await self.database.rows("SELECT name, holder FROM _leases WHERE until >= now()"))

    async def give_back(self, names: Sequence[str]) -> None:
        await self.database.rows(
            "DELETE FROM _leases WHERE name = ANY ($1::text[]) AND holder = $2", list(names), self.holder
        )

    async def contents(self) -> AsyncGenerator[Piece, None]:
        connection = await self.database.connect(long=True)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for piece in postgresql_contents.pieces_of(connection):
                    yield piece
        except Exception as error:
            raise self.database.failure(error) from error
        finally:
            await hang_up(connection)

    async def fill(self, pieces: AsyncIterable[Piece]) -> None:
        await self._fill_in_one(pieces, clear=False)

    async def replace(self, pieces: AsyncIterable[Piece]) -> None:
        """As `fill`, in the place of all that is held, which stays if anything is raised.

        Raises StoreLocked while a node of the region is connected.
        """
        await self._fill_in_one(pieces, clear=True)

    async def _fill_in_one(self, pieces: AsyncIterable[Piece], *, clear: bool) -> None:
        await self.database.prepare()
        connection = await self.database.connect(long=True)
        try:
            if clear:
                await self._check_alone(connection)
            async with connection.transaction():
                if clear:
                    await postgresql_contents.clear(connection)
                elif not await postgresql_contents.is_empty(connection):
                    raise StoreError(
                        f"{self.database.where} holds something already: only an empty one can be filled; "
                        "`atoll restore --force` replaces it, and what no peer has of it is then lost"
                    )
                await self._fill(connection, pieces)
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

    async def _fill(self, connection: asyncpg.Connection[Any], pieces: AsyncIterable[Piece]) -> None:
        """Every piece as a commit of its own, in one transaction."""
        turn = PostgresTurn(self, Wanted())
        turn.onto(connection)
        async for piece in pieces:
            for name in piece.commit.documents:
                await connection.execute(sql.create_table(name))
            self._collections.update(piece.commit.documents)
            await turn.commit(piece.commit)
            turn.onto(connection, after=piece.commit)
            await connection.executemany(_RAISE_COUNTER, piece.counters.items())

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
                await self.database.rows("DELETE FROM _leases WHERE holder = $1", self.holder)
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
                "this one. Reads go on",
                reason="it is read-only",
                store=self.database.url.shown,
            )
        return self._writer

    def drop_writer(self) -> None:
        """With it goes the lock, and what was under way is the server's to finish."""
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None


class PostgresTurn:
    """A turn: one statement that reads, and one that commits if nobody else has."""

    __slots__ = (
        "_commits",
        "_connection",
        "_locked",
        "_store",
        "_tail",
        "_wanted",
        "audit",
        "clock",
        "history",
        "positions",
        "remembered",
        "rows",
        "schemas",
    )

    def __init__(self, store: PostgresStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._connection: asyncpg.Connection[Any]

    async def __aenter__(self) -> PostgresTurn:
        for collection in self._wanted.documents:
            self._store.table(collection)
        for attempt in range(2):
            try:
                self._connection = await self._store.writer()
                await self._load()
                return self
            except AtollError:
                self._store.drop_writer()
                raise
            except Exception as error:
                self._store.drop_writer()
                if attempt or not self._store.database.lost(error):
                    raise self._store.database.failure(error) from error
            except BaseException:
                self._store.drop_writer()
                raise
        raise AssertionError

    async def _load(self) -> None:
        wanted = self._wanted
        self.history = self._store.database.history_seen_by(self._connection)
        collections = tuple(sorted(wanted.documents))
        statement = sql.turn_sql(collections, bool(wanted.remembered))
        bindings = [[kept(key) for key in wanted.documents[name]] for name in collections]
        if wanted.remembered:
            bindings.append([kept(key) for key in wanted.remembered])
        self._locked = self._store.crowded_until_s > asyncio.get_running_loop().time()
        lock = self._store.turn_lock if self._locked else 0
        rows = await self._connection.fetch(statement, lock, *bindings)
        if rows[0]["key"] == "false":
            await self._wait()
            rows = await self._connection.fetch(statement, 0, *bindings)
        _, _, positions, schemas, self._commits, self.clock, self._tail = rows[0]
        self.schemas: Mapping[str, str] = _decode_schemas(schemas)
        self.positions: Mapping[str, int] = decode_positions(positions)
        self.rows = {}
        self.remembered: dict[str, bytes] = {}
        for part, key, doc, meta, *_ in rows[1:]:
            if part < len(collections):
                self.rows[collections[part], given(key)] = Row(doc, meta)
            else:
                self.remembered[given(key)] = meta
        self.audit: dict[str, AuditRow] = {}
        if wanted.audit:
            found = await self._connection.fetch(
                f"SELECT {sql.AUDIT_COLUMNS} FROM _audit WHERE id = ANY ($1::text[])", list(wanted.audit)
            )
            self.audit = {row["id"]: audit_row(row) for row in found}

    def onto(self, connection: asyncpg.Connection[Any], *, after: Commit | None = None) -> None:
        """Stand on an empty store, or behind a commit of the same transaction."""
        self._connection = connection
        if after is None:
            self._commits, self.clock, self._tail, self.positions, self.schemas = 0, 0, 0, {}, {}
        else:
            self._commits += 1
            self._tail += len(after.segments)
            self.positions = {**self.positions, **after.positions}

    async def _wait(self) -> None:
        """Wait for the lock behind the others; one that a paused or unreachable node holds is taken from it."""
        state = ""
        for _ in range(_LOCK_WAITS):
            try:
                await self._connection.execute(f"SELECT pg_advisory_lock({self._store.turn_lock})")
                return
            except Exception as error:
                state = getattr(error, "sqlstate", "") or ""
                if state != "55P03":
                    raise
                await self._connection.fetch(_TAKE_AWAY, self._store.turn_lock)
        raise StoreUnreachable(
            f"{self._store.database.url.shown} is too busy: the turn to commit did not come in time"
        )

    async def __aexit__(self, *failure: object) -> None:
        if not self._locked or self._connection.is_closed():
            return
        try:
            await self._connection.execute("SELECT pg_advisory_unlock_all()")
        except BaseException as error:
            self._store.drop_writer()
            if not isinstance(error, Exception):
                raise

    async def recorded(self, collection: str, keys: Sequence[str], limit: int) -> dict[str, list[AuditRow]]:
        try:
            rows = await self._connection.fetch(_RECORDED, collection, [kept(key) for key in keys], limit)
        except Exception as error:
            raise self._store.database.failure(error) from error
        found: dict[str, list[AuditRow]] = {}
        for row in map(audit_row, rows):
            found.setdefault(row.key, []).append(row)
        return found

    async def commit(self, commit: Commit) -> None:
        connection, database = self._connection, self._store.database
        for collection in commit.documents:
            self._store.table(collection)
        if connection.is_closed():
            raise StoreUnreachable(
                f"{database.url.shown} went away; it is tried again", store=database.url.shown
            )
        statement, bindings = self._statement(commit)
        try:
            won = await connection.fetch(statement, *bindings)
        except Exception as error:
            if database.lost(error):
                self._store.drop_writer()
            raise database.failure(error, writing=True) from error
        except BaseException:
            self._store.drop_writer()
            raise
        if not won:
            self._store.crowded_until_s = asyncio.get_running_loop().time() + _CROWDED_S
            raise TurnLost("another node of this region has committed since this turn began")

    def _statement(self, commit: Commit) -> tuple[str, list[Any]]:
        positions = encode_positions({**self.positions, **commit.positions})
        segments = [(self._tail + at, *segment) for at, segment in enumerate(commit.segments, 1)]
        audit = {row.id: row for row in commit.audit}
        parked = {row[:3]: row for row in commit.parked}
        remembered = {row.key: row for row in commit.remembered}
        parts: dict[str, list[Sequence[Any]]] = {
            "segments": [*segments],
            "audit_removed": [(id,) for id in commit.audit_removed if id not in audit],
            "audit": [row._replace(key=kept(row.key), field=kept(row.field)) for row in audit.values()],
            "remembered": [row._replace(key=kept(row.key)) for row in remembered.values()],
            "unparked": [dot for dot in set(commit.unparked) if dot not in parked],
            "parked": [row._replace(reason=kept(row.reason)) for row in parked.values()],
            "schemas": [*commit.schemas.items()],
        }
        collections = tuple(sorted(name for name, rows in commit.documents.items() if rows))
        bindings: list[Any] = [
            self._commits,
            commit.clock or 0,
            self._tail + len(segments),
            positions,
            self._store.channel,
            self._store.told(positions),
        ]
        for name in collections:
            keys, docs, metas = zip(*commit.documents[name], strict=True)
            bindings += [[kept(key) for key in keys], docs, metas]
        present = {name: rows for name, rows in parts.items() if rows}
        for rows in present.values():
            bindings += [list(column) for column in zip(*rows, strict=True)]
        return sql.commit_sql(collections, frozenset(present)), bindings
