"""The embedded store: one SQLite database per region, written by one process, every commit fsynced.

Documents lie in `doc_<collection>(key, value, meta)`, the value as JSON text, so that SQL tools can read
them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from atoll.causality.types import Generation, Stamp
from atoll.errors import StoreCorrupt, StoreError
from atoll.store.port import AuditRow, Chunk, Commit, Condition, Row, Shape, StoreStatistics, Wanted
from atoll.store.queries import NEWEST_FIRST, Bound, PageQuery, SqlStore, audit_row, where
from atoll.store.refusals import fence_lost
from atoll.store.scanning import condition_sql, member_sql
from atoll.store.sqlite import database as sqlite_database
from atoll.store.sqlite import sql
from atoll.store.sqlite.connections import Connections
from atoll.store.sqlite.contents import chunks_of, is_empty
from atoll.store.sqlite.database import Opened
from atoll.store.sqlite.journal import SqliteJournal
from atoll.store.sqlite.transaction import FIRST_GENERATION, SqliteTransaction

_POSITIONS = "SELECT origin, seq FROM positions ORDER BY origin"
_STATES = "SELECT key, value FROM states WHERE space = ? AND key IN "
_ANY_RECORD = "SELECT 1 FROM audit WHERE collection = ? LIMIT 1"
_OPEN_RECORDS = f"{sql.SELECT_AUDIT} WHERE collection = ? AND key = ? AND status <> 'resolved' {NEWEST_FIRST}"
_INDEXES = r"SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'by\_%' ESCAPE '\'"


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


class Head(NamedTuple):
    """What was last committed."""

    positions: Mapping[str, int]
    clock: Stamp
    schemas: Mapping[str, str]


class SqliteStore(SqliteJournal, SqlStore):
    """`Store` on SQLite; made by `open_sqlite`."""

    warning = ""
    prefix = ""
    audit_columns = sql.READ_AUDIT
    document = "CAST(value AS BLOB)"
    places = ("?", "?")

    def __init__(self, opened: Opened) -> None:
        self.database = opened.database
        self.connections = Connections(opened)
        self._reader = opened.reader
        self._writer = opened.writer
        self._alone = self._writer is not None
        """Nobody else moves what `_head` remembers of the database."""
        self._head = self._stored_head()
        self._shown: Sequence[tuple[str, str]] | None = None
        """The states that were wanted last; None when they may have changed."""
        self._states: dict[tuple[str, str], bytes] = {}
        self._indexed: dict[str, frozenset[str]] = {}
        self._collections = sql.Collections()
        self._find_collections()

    def _find_collections(self) -> None:
        for (table,) in self.connections.rows(sql.COLLECTION_TABLES):
            self._collections[table[4:]] = sql.Statements.of(table[4:])

    @property
    def refusal(self) -> str:
        """Why commits are refused; empty while they are taken."""
        return self.connections.refusal

    async def open_collections(self, names: Iterable[str]) -> None:
        missing = [name for name in names if name not in self._collections]
        if not missing:
            return
        made = {name: sql.Statements.of(name) for name in missing}
        if self._writer is None:
            # A collection declared since the last writable run is simply empty.
            for statements in made.values():
                self._reader.execute(f"CREATE TEMP TABLE {statements.table} {sql.COLUMNS}")
        else:
            await self.connections.writer_free()
            with self.connections as writer:
                for statements in made.values():
                    writer.execute(f"CREATE TABLE {statements.table} {sql.COLUMNS}")
        self._collections.update(made)

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """As in the port, indexes only: SQL tools have their own ways to make views of a file."""
        self._indexed = {shape.collection: frozenset(shape.indexes) for shape in shapes}
        if self._writer is None:
            return
        wanted = dict(
            self._index_sql(shape.collection, field, decimal=field in shape.decimals)
            for shape in shapes
            for field in shape.indexes
        )
        found = {f'"{name}"' for (name,) in self.connections.rows(_INDEXES)}
        if found == wanted.keys():
            return
        await self.connections.writer_free()
        with self.connections as writer:
            for name in sorted(found - wanted.keys()):
                writer.execute(f"DROP INDEX {name}")
            for name in sorted(wanted.keys() - found):
                writer.execute(wanted[name])

    def _index_sql(self, collection: str, field: str, *, decimal: bool) -> tuple[str, str]:
        """(its name, quoted; the statement that makes it)"""
        name = f'"by_{collection}.{field}{" as number" if decimal else ""}"'
        member = member_sql(field, decimal=decimal)
        return name, f"CREATE INDEX {name} ON {self._collections[collection].table} ({member}, key)"

    def follow(
        self,
        follower: Callable[[Mapping[str, int]], None],
        history_changed: Callable[[str], None] | None = None,
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

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, Generation]:
        return dict.fromkeys(names, FIRST_GENERATION)

    async def get(self, collection: str, key: str) -> Row | None:
        return self._get(collection, key)

    async def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        # Of one moment: whoever changes `_head` has just committed, and gives way to nobody in between.
        if self._known:
            return self._get(collection, key), self._head.positions
        with self.connections.one_moment():
            return self._get(collection, key), self.head().positions

    def _get(self, collection: str, key: str) -> Row | None:
        try:
            row = self._reader.execute(self._collections[collection].get, (key,)).fetchone()
        except apsw.Error as error:
            raise self.connections.failure(error) from error
        return None if row is None else Row(*row)

    def table(self, collection: str) -> str:
        return self._collections[collection].table

    def bound(self) -> Bound:
        return Bound()

    async def found(self, sql: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        return self.connections.rows(sql, values)

    async def removed(self, delete: str, *values: Any) -> int:
        await self.connections.writer_free()
        return self.connections.change(delete, values)

    async def page(self, asked: PageQuery) -> list[Sequence[Any]]:
        return self._page(self._reader, asked)

    def _page(self, connection: apsw.Connection, asked: PageQuery) -> list[Sequence[Any]]:
        columns, table, order, sized, terms, bound, limit, left_bytes = asked
        select = f"SELECT {', '.join(columns)} FROM {table}{where(terms)} ORDER BY {order} LIMIT ?"
        found: list[Sequence[Any]] = []
        try:
            for row in connection.execute(select, [*bound.values, limit]):
                found.append(row)
                left_bytes -= len(row[-1])
                if sized > 1 and row[-2] is not None:
                    left_bytes -= len(row[-2])
                if left_bytes <= 0:
                    break
        except apsw.Error as error:
            raise self.connections.failure(error) from error
        return found

    async def page_at(
        self, asked: PageQuery, *, searching: bool = False
    ) -> tuple[list[Sequence[Any]], Mapping[str, int]]:
        def search(connection: apsw.Connection) -> tuple[list[Sequence[Any]], Mapping[str, int]]:
            rows = self._page(connection, asked)
            positions: list[Any] = connection.execute(_POSITIONS).fetchall()
            return rows, dict(positions)

        if searching and self._alone:  # not of a database that is only read: it may have tables of its own
            return await asyncio.to_thread(self.connections.beside, search)
        with self.connections.one_moment():
            return await self.page(asked), self.head().positions

    def condition(self, collection: str, condition: Condition, bound: Bound) -> str:
        indexed = condition.field in self._indexed.get(collection, ())
        term, values = condition_sql(condition, f"{self.table(collection)}.value", indexed=indexed)
        bound.values += values
        return term

    def begin(self, wanted: Wanted) -> SqliteTransaction:
        return SqliteTransaction(self, wanted)

    def load(self, collection: str, keys: Sequence[str]) -> Iterator[tuple[str, bytes | None, bytes, int]]:
        return self.connections.among(self._collections[collection].load, keys)

    def load_states(self, wanted: Wanted) -> dict[tuple[str, str], bytes]:
        """Those that a transaction wants."""
        if wanted.states != self._shown or not self._alone:  # nearly every transaction wants the same
            spaces: dict[str, list[str]] = {}
            for space, key in wanted.states:
                spaces.setdefault(space, []).append(key)
            found: dict[tuple[str, str], bytes] = {}
            for space, keys in spaces.items():
                for key, value in self.connections.among(_STATES, keys, space):
                    found[space, key] = value
            self._shown, self._states = wanted.states, found
        return self._states

    def commit(self, commit: Commit, found: Mapping[tuple[str, str], int]) -> None:
        """Raises Indefinite when an fsync failed, then StoreUnwritable until reopened.

        `found`: (collection, key) → rowid of rows that the transaction has seen.
        """
        written = [
            (self._collections[name], *_apart(name, rows, found)) for name, rows in commit.documents.items()
        ]
        for name, generation in commit.fences.items():
            if generation != FIRST_GENERATION:
                raise fence_lost(name, FIRST_GENERATION, generation)
        if commit.states:
            self._shown = None
        with self.connections as writer:
            for name, keys in commit.erased.items():
                writer.executemany(self._collections[name].erase, [(key,) for key in keys])
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
        positions, clock, schemas = self._head
        self._head = Head(
            {**positions, **commit.positions} if commit.positions else positions,
            max(clock, commit.clock or clock),
            {**schemas, **commit.schemas} if commit.schemas else schemas,
        )

    @staticmethod
    def _write(writer: apsw.Connection, commit: Commit) -> None:
        """All but the documents."""
        execute, executemany = writer.execute, writer.executemany
        for segment in commit.segments:
            execute(sql.ADD_SEGMENT, segment)
        if commit.positions:
            executemany(sql.SET_POSITION, commit.positions.items())
        if commit.clock is not None:
            execute(sql.SET_CLOCK, (commit.clock,))
        if commit.audit_removed:
            executemany("DELETE FROM audit WHERE id = ?", [(id,) for id in commit.audit_removed])
        if commit.audit:
            executemany(sql.SET_AUDIT, commit.audit)
        if commit.remembered:
            executemany(sql.REMEMBER, commit.remembered)
        if commit.unparked:
            executemany(sql.UNPARK, commit.unparked)
        if commit.parked:
            executemany(sql.PARK, commit.parked)
        if commit.schemas:
            executemany(sql.SET_SCHEMA, commit.schemas.items())
        if commit.states:
            states = commit.states.items()
            executemany(sql.SET_STATE, [(*place, value) for place, value in states if value is not None])
            executemany(sql.REMOVE_STATE, [place for place, value in states if value is None])

    def head(self) -> Head:
        """Nobody changes what it holds: a commit makes a new one."""
        return self._head if self._known else self._stored_head()

    @property
    def _known(self) -> bool:
        """Whether `_head` is what the reader sees: not while another process commits, or a thread of this one."""
        return self._alone and self.connections.working is None

    def _stored_head(self) -> Head:
        positions = dict(self.connections.rows(_POSITIONS))
        settings = dict(self.connections.rows("SELECT name, value FROM settings ORDER BY name"))
        schemas = {name[7:]: value for name, value in settings.items() if name.startswith("schema ")}
        return Head(positions, Stamp(int(settings.get("clock", 0))), schemas)

    async def positions(self) -> dict[str, int]:
        return dict(self.head().positions)

    async def clock(self) -> Stamp:
        return self.head().clock

    async def schemas(self) -> dict[str, str]:
        return dict(self.head().schemas)

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        await self.connections.writer_free()
        return self.answers(keys)

    def answers(self, keys: Sequence[str]) -> dict[str, bytes]:
        return dict(self.connections.among("SELECT key, answer FROM remembered WHERE key IN ", keys))

    def records(self, ids: Sequence[str]) -> Iterator[AuditRow]:
        return map(audit_row, self.connections.among(f"{sql.SELECT_AUDIT} WHERE id IN ", ids))

    def open_records(self, collection: str, keys: Sequence[str]) -> list[AuditRow]:
        """Of some documents, newest first."""
        if not self.connections.load(_ANY_RECORD, (collection,)):
            return []  # nearly always, and then each key need not be looked up
        found = [row for key in keys for row in self.connections.load(_OPEN_RECORDS, (collection, key))]
        return [audit_row(row) for row in found]

    async def raise_counter(self, name: str, value: int) -> None:
        await self.connections.writer_free()
        with self.connections as writer:
            writer.execute(sql.RAISE_COUNTER, (name, value))

    async def advance_counter(self, name: str, by: int) -> int:
        await self.connections.writer_free()
        with self.connections as writer:
            return int(writer.execute(sql.ADVANCE_COUNTER, (name, by)).get)

    async def contents(self) -> AsyncGenerator[Chunk, None]:
        """As in the port, through a connection of its own: while it reads, the log cannot be started over."""
        connection = self.connections.connect_reader()
        try:
            connection.execute("BEGIN")
            for chunk in chunks_of(connection):
                yield chunk
                await asyncio.sleep(0)
        except apsw.Error as error:
            raise self.connections.failure(error) from error
        finally:
            connection.close()

    async def fill(self, chunks: AsyncIterable[Chunk]) -> None:
        with self.connections as writer:
            if not is_empty(writer):
                raise StoreError(f"{self.database} is not empty: only an empty store can be filled")
            async for chunk in chunks:
                commit = chunk.commit
                for name, rows in commit.documents.items():
                    statements = sql.Statements.of(name)
                    writer.execute(f"CREATE TABLE IF NOT EXISTS {statements.table} {sql.COLUMNS}")
                    writer.executemany(statements.insert, rows)
                self._write(writer, commit)
                writer.executemany(sql.RAISE_COUNTER, chunk.counters.items())
        self._head, self._shown = self._stored_head(), None
        self._find_collections()

    async def statistics(self) -> StoreStatistics:
        documents: dict[str, int] = {}
        tombstones: dict[str, int] = {}
        for name, statements in sorted(self._collections.items()):
            query = f"SELECT count(value), count(*) FROM {statements.table}"
            visible, rows = self.connections.rows(query)[0]
            documents[name], tombstones[name] = visible, rows - visible
        conflicts, parked = self.connections.rows(
            "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM parked)"
        )[0]
        size_bytes = 0
        for path in (self.database, Path(f"{self.database}-wal")):
            with contextlib.suppress(FileNotFoundError):
                size_bytes += path.stat().st_size
        return StoreStatistics(documents, tombstones, conflicts, parked, size_bytes)

    async def checkpoint(self) -> None:
        """As in the port, in a thread."""
        await asyncio.to_thread(self.connections.copy_log)

    async def close(self) -> None:
        await self.connections.writer_free()
        self.connections.close()


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
