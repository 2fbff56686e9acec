"""The embedded store: one SQLite database per region, written by one process, every commit fsynced.

Documents lie in `doc_<collection>(key, value, meta)`, the value as JSON text, so that SQL tools can read
them. Reads go through a connection of their own: they see committed data only, also while a commit runs.
`load` uses the writer's, whose cache outlives commits: the pages that it reads are about to be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from atoll.errors import AtollError, Indefinite, StoreCorrupt, StoreError, StoreUnwritable, UnknownCollection
from atoll.store import sqlite_database
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
from atoll.store.scanning import condition_sql, member_sql, prefix_end
from atoll.store.sqlite_contents import COLLECTION_TABLES, is_empty, pieces_of
from atoll.store.sqlite_database import PAGE_BYTES, Opened

_KEYS_AT_ONCE = 512
_FORGOTTEN_AT_ONCE = 5_000
_WAL_RESTART_PAGES = (32 << 20) // PAGE_BYTES
_WAL_BOUND_PAGES = (128 << 20) // PAGE_BYTES
"""Past this a commit checkpoints by itself: the safety net when nobody calls `checkpoint` often enough."""
_REST_PAGES = (2 << 20) // PAGE_BYTES
"""So little of the log may be left for a commit to copy before it starts the log over."""
_MOST_PASSES = 4

_ADD_SEGMENT = "INSERT INTO journal (origin, first_seq, last_seq, body) VALUES (?, ?, ?, ?)"
_SET_POSITION = (
    "INSERT INTO positions (origin, seq) VALUES (?, ?) ON CONFLICT (origin) DO UPDATE SET seq = excluded.seq"
)
_SET_CLOCK = (
    "INSERT INTO settings (name, value) VALUES ('clock', ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)
_RAISE_COUNTER = (
    "INSERT INTO counters (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)
_ADVANCE_COUNTER = (
    "INSERT INTO counters (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value"
)
_TRUNCATE = (
    "DELETE FROM journal WHERE id IN (SELECT id FROM journal "
    "WHERE id <= ? AND id < (SELECT max(id) FROM journal) ORDER BY id LIMIT ?)"
)
_AUDIT_COLUMNS = ", ".join(AuditRow._fields[:-1])
_SELECT_AUDIT = f"SELECT {_AUDIT_COLUMNS}, CAST(body AS BLOB) FROM audit"
_SET_AUDIT = f"INSERT OR REPLACE INTO audit ({_AUDIT_COLUMNS}, body) VALUES ({'?, ' * 11}CAST(? AS TEXT))"
_REMEMBER = "INSERT OR REPLACE INTO remembered (key, at_ms, answer) VALUES (?, ?, ?)"
_PARK = 'INSERT OR REPLACE INTO parked (origin, seq, "index", reason, body) VALUES (?, ?, ?, ?, ?)'
_UNPARK = 'DELETE FROM parked WHERE origin = ? AND seq = ? AND "index" = ?'
_COLUMNS = "(key TEXT PRIMARY KEY NOT NULL, value TEXT, meta BLOB NOT NULL)"
_SET_SCHEMA = "INSERT OR REPLACE INTO settings (name, value) VALUES ('schema ' || ?, ?)"


class _Statements(NamedTuple):
    """The SQL of one collection. Values are bound and read as bytes, and stored as text: no transcoding."""

    table: str
    get: str
    load: str
    insert: str
    update: str
    """By rowid: a turn has found the row already, and need not search its key again."""

    @classmethod
    def of(cls, collection: str) -> _Statements:
        table = '"doc_' + collection.replace('"', '""') + '"'
        return cls(
            table,
            f"SELECT CAST(value AS BLOB), meta FROM {table} WHERE key = ?",
            f"SELECT key, CAST(value AS BLOB), meta, rowid FROM {table} WHERE key IN ",
            f"INSERT INTO {table} (key, value, meta) VALUES (?, CAST(? AS TEXT), ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, meta = excluded.meta",
            f"UPDATE {table} SET value = CAST(? AS TEXT), meta = ? WHERE rowid = ?",
        )


class _Collections(dict[str, _Statements]):
    def __missing__(self, collection: str) -> _Statements:
        raise UnknownCollection(
            f"the store has no table for collection {collection!r}: open_collections makes it",
            collection=collection,
        )


def open_sqlite(
    folder: Path, *, region: str, deployment: str, read_only: bool = False, vfs: str | None = None
) -> SqliteStore:
    """Open the region's database in `folder`, or create it; only one process can hold it for writing.

    Where it exists but cannot be written, the store opens for reading and every commit raises
    StoreUnwritable. `read_only` takes no lock, so it also works beside the running region. `vfs` names
    a registered SQLite file system, for fault injection.

    Raises StoreLocked, StoreUnwritable (nothing to read either), StoreCorrupt, and ConfigError for
    another region's database or a newer format.
    """
    return SqliteStore(
        sqlite_database.open_database(
            folder, region=region, deployment=deployment, read_only=read_only, vfs=vfs
        )
    )


class SqliteStore:
    """`Store` on SQLite; made by `open_sqlite`."""

    warning = ""

    def __init__(self, opened: Opened) -> None:
        self.database = opened.database
        self.refusal = opened.refusal
        """Why commits are refused; empty while they are taken."""
        self._opened = opened
        self._reader = opened.reader
        self._writer = opened.writer
        self._loader = opened.writer or opened.reader
        self._checkpointer: apsw.Connection | None = None
        self._checkpointing = threading.Lock()
        self._closed = False
        self._log_pages = 0
        self._log_nearly_copied = False
        if self._writer is not None:
            self._writer.set_wal_hook(self._on_log)
        self._alone = self._writer is not None
        """Nobody else changes what is remembered here of the database."""
        self._positions = self._stored_positions()
        self._clock = self._stored_clock()
        self._schemas = self._stored_schemas()
        self._indexed: dict[str, frozenset[str]] = {}
        self._collections = _Collections()
        self._find_collections()

    def _find_collections(self) -> None:
        for (table,) in self._rows(self._reader, COLLECTION_TABLES):
            self._collections[table[4:]] = _Statements.of(table[4:])

    @property
    def read_only(self) -> bool:
        """Whether the database was opened without the right to write."""
        return self._writer is None

    async def open_collections(self, names: Iterable[str]) -> None:
        missing = [name for name in names if name not in self._collections]
        if not missing:
            return
        made = {name: _Statements.of(name) for name in missing}
        if self._writer is None:
            # A collection declared since the last writable run is simply empty.
            for statements in made.values():
                self._reader.execute(f"CREATE TEMP TABLE {statements.table} {_COLUMNS}")
        else:
            with self._transaction() as writer:
                for statements in made.values():
                    writer.execute(f"CREATE TABLE {statements.table} {_COLUMNS}")
        self._collections.update(made)

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """As in the port, indexes only: SQL tools have their own ways to make views of a file."""
        self._indexed = {shape.collection: frozenset(shape.indexes) for shape in shapes}
        if self._writer is None:
            return
        wanted = {
            name: f"CREATE INDEX {name} ON {self._collections[shape.collection].table} ({member_sql(field)}, key)"
            for shape in shapes
            for field in shape.indexes
            for name in ('"by_' + f"{shape.collection}.{field}" + '"',)
        }
        found = {
            f'"{name}"'
            for (name,) in self._rows(
                self._reader,
                r"SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'by\_%' ESCAPE '\'",
            )
        }
        if found == wanted.keys():
            return
        with self._transaction() as writer:
            for name in sorted(found - wanted.keys()):
                writer.execute(f"DROP INDEX {name}")
            for name in sorted(wanted.keys() - found):
                writer.execute(wanted[name])

    def follow(
        self, follower: Callable[[Mapping[str, int]], None], turned: Callable[[str], None] | None = None
    ) -> None:
        """There are no other nodes."""

    async def history(self) -> str:
        """There is only one: a copy is put in the database's place by `atoll restore`, which leaves a mark."""
        return ""

    async def history_taken_up(self) -> str:
        return ""

    async def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        for name, value in counters.items():
            await self.raise_counter(name, value)

    holder = ""

    async def holders(self) -> Mapping[str, str]:
        return {}

    async def give_back(self, names: Sequence[str]) -> None:
        """Nobody else could hold them."""

    async def lease(self, names: Sequence[str], for_s: float) -> frozenset[str]:
        return frozenset(names)

    async def get(self, collection: str, key: str) -> Row | None:
        return self._get(collection, key)

    async def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        # Of one moment: whoever changes `_positions` has just committed, and gives way to nobody in between.
        return self._get(collection, key), self._positions if self._alone else await self.positions()

    def _get(self, collection: str, key: str) -> Row | None:
        try:
            row = self._reader.execute(self._collections[collection].get, (key,)).fetchone()
        except apsw.Error as error:
            raise self._failure(error) from error
        return None if row is None else Row(*row)

    async def scan(
        self,
        collection: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        where: Sequence[Condition] = (),
    ) -> list[tuple[str, Row]]:
        table = self._collections[collection].table
        terms = ["value IS NOT NULL"]
        bindings: list[Any] = []
        if after is not None and after >= prefix:
            terms.append("key > ?")
            bindings.append(after)
        elif prefix:
            terms.append("key >= ?")
            bindings.append(prefix)
        end = prefix_end(prefix)
        if end is not None:
            terms.append("key < ?")
            bindings.append(end)
        for condition in where:
            indexed = condition.field in self._indexed.get(collection, ())
            term, bound = condition_sql(condition, f"{table}.value", indexed=indexed)
            terms.append(term)
            bindings.extend(bound)
        return self._scan(collection, terms, bindings, limit)

    async def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, Row]]:
        return self._scan(
            collection, ["key > ?"] if after is not None else [], [after] * (after is not None), limit
        )

    def _scan(
        self, collection: str, terms: Sequence[str], bindings: Sequence[Any], limit: int
    ) -> list[tuple[str, Row]]:
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        sql = (
            f"SELECT key, CAST(value AS BLOB), meta FROM {self._collections[collection].table}{where} "
            "ORDER BY key LIMIT ?"
        )
        rows = self._rows(self._reader, sql, [*bindings, limit])
        return [(key, Row(value, meta)) for key, value, meta in rows]

    def begin(self, wanted: Wanted) -> SqliteTurn:
        return SqliteTurn(self, wanted)

    def _load(self, collection: str, keys: Sequence[str]) -> Iterator[tuple[str, bytes | None, bytes, int]]:
        return self._among(self._loader, self._collections[collection].load, keys)

    def _records(self, ids: Sequence[str]) -> Iterator[AuditRow]:
        return map(_audit_row, self._among(self._loader, f"{_SELECT_AUDIT} WHERE id IN ", ids))

    def _answers(self, keys: Sequence[str]) -> dict[str, bytes]:
        return dict(self._among(self._loader, "SELECT key, answer FROM remembered WHERE key IN ", keys))

    def _commit(self, commit: Commit, found: Mapping[tuple[str, str], int]) -> None:
        """Raises Indefinite when an fsync failed, then StoreUnwritable until reopened.

        `found`: (collection, key) → rowid of rows that the turn has seen.
        """
        written = [
            (self._collections[name], *_apart(name, rows, found)) for name, rows in commit.documents.items()
        ]
        with self._transaction() as writer:
            for statements, new, known in written:
                if new:
                    writer.executemany(statements.insert, new)
                if known:
                    before = writer.total_changes()
                    writer.executemany(statements.update, known)
                    if writer.total_changes() - before != len(known):
                        raise StoreCorrupt(
                            f"{self.database} has lost rows of {statements.table} within one commit: another program "
                            "has changed it; nothing was written",
                            database=str(self.database),
                        )
            self._write(writer, commit)
        if commit.positions:
            self._positions = {**self._positions, **commit.positions}
        if commit.schemas:
            self._schemas = {**self._schemas, **commit.schemas}
        if commit.clock is not None:
            self._clock = max(self._clock, commit.clock)
        if self._log_nearly_copied or self._log_pages > _WAL_BOUND_PAGES:
            self._copy_rest_of_log()

    @staticmethod
    def _write(writer: apsw.Connection, commit: Commit) -> None:
        """All but the documents."""
        execute, executemany = writer.execute, writer.executemany
        for segment in commit.segments:
            execute(_ADD_SEGMENT, segment)
        if commit.positions:
            executemany(_SET_POSITION, commit.positions.items())
        if commit.clock is not None:
            execute(_SET_CLOCK, (commit.clock,))
        if commit.audit_removed:
            executemany("DELETE FROM audit WHERE id = ?", [(id,) for id in commit.audit_removed])
        if commit.audit:
            executemany(_SET_AUDIT, commit.audit)
        if commit.remembered:
            executemany(_REMEMBER, commit.remembered)
        if commit.unparked:
            executemany(_UNPARK, commit.unparked)
        if commit.parked:
            executemany(_PARK, commit.parked)
        if commit.schemas:
            executemany(_SET_SCHEMA, commit.schemas.items())

    async def positions(self) -> dict[str, int]:
        return dict(self._positions) if self._alone else self._stored_positions()

    async def clock(self) -> int:
        return self._clock if self._alone else self._stored_clock()

    def _stored_positions(self) -> dict[str, int]:
        return dict(self._rows(self._reader, "SELECT origin, seq FROM positions ORDER BY origin"))

    def _stored_clock(self) -> int:
        rows = self._rows(self._reader, "SELECT value FROM settings WHERE name = 'clock'")
        return int(rows[0][0]) if rows else 0

    async def journal(self, after_id: int, *, limit: int = 64, limit_bytes: int = 4 << 20) -> list[Numbered]:
        found: list[Numbered] = []
        size_bytes = 0
        sql = "SELECT id, origin, first_seq, last_seq, body FROM journal WHERE id > ? ORDER BY id LIMIT ?"
        try:
            for id, origin, first_seq, last_seq, body in self._reader.execute(sql, (after_id, limit)):
                size_bytes += len(body)
                if found and size_bytes > limit_bytes:
                    break
                found.append(Numbered(id, Segment(origin, first_seq, last_seq, body)))
        except apsw.Error as error:
            raise self._failure(error) from error
        return found

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        # One origin's segments have rising ids, so its first one past the vector bounds them all.
        sql = "SELECT id FROM journal WHERE origin = ? AND last_seq > ? ORDER BY last_seq LIMIT 1"
        firsts = [
            id
            for origin in origins
            for (id,) in self._rows(self._reader, sql, (origin, vector.get(origin, 0)))
        ]
        return min(firsts) - 1 if firsts else await self.journal_tail()

    async def segment(self, origin: str, seq: int) -> Segment | None:
        sql = (
            "SELECT origin, first_seq, last_seq, body FROM journal "
            "WHERE origin = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1"
        )
        for row in self._rows(self._reader, sql, (origin, seq)):
            segment = Segment._make(row)
            if segment.first_seq <= seq:
                return segment
        return None

    async def journal_tail(self) -> int:
        return int(self._rows(self._reader, "SELECT coalesce(max(id), 0) FROM journal")[0][0])

    async def journal_extent(self) -> JournalExtent:
        first, tail = self._rows(self._reader, "SELECT min(id), max(id) FROM journal")[0]
        if first is None:
            return JournalExtent(0, 0, 0)
        count = tail - first + 1
        ids = range(first, tail + 1, -(-count // MEASURED_SEGMENTS))
        sizes = [
            size
            for id in ids  # not by IN: it would read the table from end to end
            for (size,) in self._rows(self._reader, "SELECT length(body) FROM journal WHERE id = ?", (id,))
        ]
        return JournalExtent(first - 1, tail, sum(sizes) * count // len(sizes))

    async def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        with self._transaction() as writer:
            before = writer.total_changes()
            writer.execute(_TRUNCATE, (up_to_id, limit))
            return writer.total_changes() - before

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self._answers(keys)

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        asked: list[tuple[str, tuple[Any, ...]]] = [
            (f"{column} = ?", (value,))
            for column, value in (
                ("collection", wanted.collection),
                ("key", wanted.key),
                ("kind", wanted.kind),
                ("status", wanted.status),
            )
            if value is not None
        ]
        if wanted.origin is not None:
            asked.append(("? IN (loser_origin, winner_origin)", (wanted.origin,)))
        if wanted.since_ms is not None:
            asked.append(("stamp_ms >= ?", (wanted.since_ms,)))
        if wanted.until_ms is not None:
            asked.append(("stamp_ms <= ?", (wanted.until_ms,)))
        if after is not None:
            asked.append(("(stamp_ms, id) < (?, ?)", after))
        where = f" WHERE {' AND '.join(term for term, _ in asked)}" if asked else ""
        bindings = [value for _, bound in asked for value in bound]
        sql = f"{_SELECT_AUDIT}{where} ORDER BY stamp_ms DESC, id DESC LIMIT ?"
        return [_audit_row(row) for row in self._rows(self._reader, sql, [*bindings, limit])]

    async def conflict(self, id: str) -> AuditRow | None:
        return next(self._records([id]), None)

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = ' WHERE (origin, seq, "index") > (?, ?, ?)' if after is not None else ""
        sql = f'SELECT origin, seq, "index", reason, body FROM parked{past} ORDER BY origin, seq, "index" LIMIT ?'
        return [Parked._make(row) for row in self._rows(self._reader, sql, (*(after or ()), limit))]

    async def schemas(self) -> dict[str, str]:
        return dict(self._schemas) if self._alone else self._stored_schemas()

    def _stored_schemas(self) -> dict[str, str]:
        sql = "SELECT substr(name, 8), value FROM settings WHERE name LIKE 'schema %' ORDER BY name"
        return dict(self._rows(self._reader, sql))

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """As in the port, a bounded number of rows a call, so that writers need not wait: call until 0."""
        with self._transaction() as writer:
            before = writer.total_changes()
            writer.execute(
                "DELETE FROM remembered WHERE rowid IN "
                "(SELECT rowid FROM remembered WHERE at_ms < ? LIMIT ?)",
                (remembered_before_ms, _FORGOTTEN_AT_ONCE),
            )
            kept = int(writer.execute("SELECT count(*) FROM audit").get)
            oldest = (
                "DELETE FROM audit WHERE rowid IN (SELECT rowid FROM audit "
                "WHERE status <> 'manual' AND stamp_ms < ? ORDER BY stamp_ms, id LIMIT ?)"
            )
            aged = writer.total_changes()
            writer.execute(oldest, (audit_before_ms, _FORGOTTEN_AT_ONCE))
            aged = writer.total_changes() - aged
            over = kept - aged - audit_keep
            if over > 0 and aged < _FORGOTTEN_AT_ONCE:
                writer.execute(oldest, ((1 << 63) - 1, min(over, _FORGOTTEN_AT_ONCE - aged)))
            return writer.total_changes() - before

    async def counter(self, name: str) -> int:
        rows = self._rows(self._reader, "SELECT value FROM counters WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else 0

    async def raise_counter(self, name: str, value: int) -> None:
        with self._transaction() as writer:
            writer.execute(_RAISE_COUNTER, (name, value))

    async def advance_counter(self, name: str, by: int) -> int:
        with self._transaction() as writer:
            return int(writer.execute(_ADVANCE_COUNTER, (name, by)).get)

    async def contents(self) -> AsyncGenerator[Piece, None]:
        """As in the port, through a connection of its own: while it reads, the log cannot be started over."""
        connection = sqlite_database.connect_reader(str(self.database), self._opened.vfs)
        try:
            connection.execute("BEGIN")
            for piece in pieces_of(connection):
                yield piece
                await asyncio.sleep(0)
        except apsw.Error as error:
            raise self._failure(error) from error
        finally:
            connection.close()

    async def fill(self, pieces: AsyncIterable[Piece]) -> None:
        with self._transaction() as writer:
            if not is_empty(writer):
                raise StoreError(
                    f"{self.database} holds something already: only an empty store can be filled"
                )
            async for piece in pieces:
                commit = piece.commit
                for name, rows in commit.documents.items():
                    statements = _Statements.of(name)
                    writer.execute(f"CREATE TABLE IF NOT EXISTS {statements.table} {_COLUMNS}")
                    writer.executemany(statements.insert, rows)
                self._write(writer, commit)
                writer.executemany(_RAISE_COUNTER, piece.counters.items())
        self._positions, self._clock = self._stored_positions(), self._stored_clock()
        self._schemas = self._stored_schemas()
        self._find_collections()

    async def statistics(self) -> StoreStatistics:
        documents: dict[str, int] = {}
        tombstones: dict[str, int] = {}
        for name, statements in sorted(self._collections.items()):
            sql = f"SELECT count(value), count(*) FROM {statements.table}"
            visible, rows = self._rows(self._reader, sql)[0]
            documents[name], tombstones[name] = visible, rows - visible
        conflicts, parked = self._rows(
            self._reader, "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM parked)"
        )[0]
        size_bytes = 0
        for path in (self.database, Path(f"{self.database}-wal")):
            with contextlib.suppress(FileNotFoundError):
                size_bytes += path.stat().st_size
        return StoreStatistics(documents, tombstones, conflicts, parked, size_bytes)

    async def checkpoint(self) -> None:
        """As in the port, in a thread."""
        await asyncio.to_thread(self.copy_log)

    def copy_log(self) -> None:
        """Copy the write-ahead log into the database; a disk that refuses is left for a commit to report.

        The log's file is reused, not truncated: writing over it made single commits 1.45 times as fast
        as growing it (`journal_size_limit` cuts it back after a burst).
        """
        with self._checkpointing:
            if self._closed or self.refusal:
                return
            try:
                if self._checkpointer is None:
                    self._checkpointer = sqlite_database.connect(self.database, self._opened.vfs)
                for _ in range(_MOST_PASSES):
                    pages, copied = self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                    # Each pass leaves what was written during the one before: ever less.
                    if pages <= _WAL_RESTART_PAGES or self._log_pages - copied <= _REST_PAGES:
                        break
                self._log_nearly_copied = pages > _WAL_RESTART_PAGES
            except sqlite_database.UNWRITABLE as error:
                self._failure(error)

    def _copy_rest_of_log(self) -> None:
        """Copy what was written since `checkpoint` began, so that the next commit starts the log over.

        A writer that never pauses would let it grow for ever; and a RESTART from the other thread never
        gets its turn beside one.
        """
        assert self._writer is not None
        self._log_nearly_copied = False
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except sqlite_database.UNWRITABLE as error:
            self._failure(error)

    async def close(self) -> None:
        with self._checkpointing:
            if self._closed:
                return
            self._closed = True
            if self._writer is not None:
                self._writer.set_wal_hook(None)
            for connection in (self._checkpointer, self._reader, self._writer):
                if connection is not None:
                    connection.close()
            if self._opened.lock is not None:
                self._opened.lock.release()

    def _on_log(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        writer = self._writer
        if writer is None or self.refusal:
            raise StoreUnwritable(self.refusal, database=str(self.database))
        try:
            writer.execute("BEGIN IMMEDIATE")
            yield writer
            writer.execute("COMMIT")
        except BaseException as error:
            self._roll_back(writer)
            if isinstance(error, apsw.Error):
                raise self._failure(error) from error
            raise

    @staticmethod
    def _roll_back(writer: apsw.Connection) -> None:
        with contextlib.suppress(apsw.Error):  # SQLite has rolled back already after some errors
            if writer.in_transaction:
                writer.execute("ROLLBACK")

    def _rows(self, connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        try:
            return connection.execute(sql, bindings).fetchall()
        except apsw.Error as error:
            raise self._failure(error) from error

    def _among(self, connection: apsw.Connection, select: str, keys: Sequence[str]) -> Iterator[Any]:
        """Rows whose key is among `keys`; with powers of two of placeholders, to prepare few statements."""
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            chunk = keys[start : start + _KEYS_AT_ONCE]
            places = 1 << (len(chunk) - 1).bit_length()
            padding = [chunk[-1]] * (places - len(chunk))
            sql = f"{select}(?{', ?' * (places - 1)})"
            yield from self._rows(connection, sql, [*chunk, *padding])

    def _failure(self, error: apsw.Error) -> AtollError:
        if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC:
            self._stop_writing()
            return Indefinite(f"{self.refusal}. This write may have happened", database=str(self.database))
        if isinstance(error, sqlite_database.UNWRITABLE):
            return sqlite_database.unwritable(self.database, error)
        if isinstance(error, sqlite_database.CORRUPT):
            return sqlite_database.corrupt(self.database, error)
        if isinstance(error, apsw.ConstraintError):
            return StoreCorrupt(
                f"{self.database} refused a row that contradicts what it holds ({error}); nothing was "
                "changed: two nodes may have written as one region",
                database=str(self.database),
            )
        return StoreError(f"{self.database}: {error}", database=str(self.database))

    def _stop_writing(self) -> None:
        """After a failed fsync nobody knows what the disk holds, and the next one would not tell.

        The kernel forgets the pages that it failed to write. So the log stays as it is, with all that was
        acknowledged: nothing is written over it and no checkpoint discards it until recovery has read it.
        """
        self.refusal = (
            f"{self.database} takes no writes since an fsync failed: check the disk, then restart the region"
        )
        for connection in (self._writer, self._reader, self._checkpointer):
            if connection is not None:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


class SqliteTurn:
    """A turn of the only node there is: nobody can come in between."""

    __slots__ = (
        "_rowids",
        "_store",
        "_wanted",
        "audit",
        "clock",
        "positions",
        "remembered",
        "rows",
        "schemas",
    )
    history = ""

    def __init__(self, store: SqliteStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted

    async def __aenter__(self) -> SqliteTurn:
        store, wanted = self._store, self._wanted
        self.positions: Mapping[str, int] = await store.positions()
        self.clock = await store.clock()
        self.schemas: Mapping[str, str] = await store.schemas()
        self.rows: dict[tuple[str, str], Row] = {}
        self._rowids: dict[tuple[str, str], int] = {}
        for collection, keys in wanted.documents.items():
            for key, value, meta, rowid in store._load(collection, keys):
                self.rows[collection, key] = Row(value, meta)
                self._rowids[collection, key] = rowid
        self.remembered = store._answers(wanted.remembered) if wanted.remembered else {}
        self.audit = {row.id: row for row in store._records(wanted.audit)} if wanted.audit else {}
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing is held between two commits."""

    async def recorded(self, collection: str, keys: Sequence[str], limit: int) -> dict[str, list[AuditRow]]:
        return {key: await self._store.conflicts(AuditFilter(collection, key), limit=limit) for key in keys}

    async def commit(self, commit: Commit) -> None:
        self._store._commit(commit, self._rowids)


def _apart(
    collection: str,
    rows: Sequence[tuple[str, bytes | None, bytes]],
    found: Mapping[tuple[str, str], int],
) -> tuple[list[tuple[str, bytes | None, bytes]], list[tuple[bytes | None, bytes, int]]]:
    """Rows to insert, and values with the rowid that they replace."""
    new: list[tuple[str, bytes | None, bytes]] = []
    known: list[tuple[bytes | None, bytes, int]] = []
    for row in rows:
        rowid = found.get((collection, row[0]))
        if rowid is None:
            new.append(row)
        else:
            known.append((row[1], row[2], rowid))
    return new, known


def _audit_row(row: Sequence[Any]) -> AuditRow:
    read = AuditRow._make(row)
    return read._replace(uncertain=bool(read.uncertain))
