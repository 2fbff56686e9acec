"""A transaction of a region's PostgreSQL store.

It is two statements. The first reads the region's row and what the batch addresses. The second is the whole commit, and
a compare-and-set on the region's row: it does nothing if anybody has committed since. So seqs are dense however long a
node was paused in between. A large commit is several such statements in one transaction.

A node whose commit came too late takes an advisory lock for its next ones. Meanwhile no other node commits: it comes
too late, too, and waits for the lock in turn. So a node that is slow, or far away, gets on beside fast ones. A lock
that nobody uses for two seconds is taken away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.causality.types import Stamp
from atoll.errors import AtollError, StoreUnreachable
from atoll.schema.bounds import BESIDE_BYTES
from atoll.store.port import AuditRow, Commit, Row, Transaction, Wanted
from atoll.store.postgresql import sql
from atoll.store.postgresql.sql import given, given_all, kept, kept_all
from atoll.store.postgresql.watch import decode_positions, encode_positions
from atoll.store.queries import NEWEST_FIRST
from atoll.store.refusals import fence_lost, lost_to_another_node, too_much

if TYPE_CHECKING:
    import asyncpg

    from atoll.store.postgresql.store import PostgresStore

_CROWDED_S = 2.0
"""For so long after a lost transaction a node takes the lock for its next ones."""
_LOCK_WAITS = 4
"""How often `LOCK_MS` is waited for the lock before the writers are told."""
_UNMEASURED = 32
"""So few documents are loaded whatever their size."""
_RECORDS = f"{sql.SELECT_AUDIT} WHERE id = ANY ($1::text[])"
_OPEN_RECORDS = f"""
{sql.SELECT_AUDIT} WHERE collection = $1 AND key = ANY ($2::text[]) AND status <> 'resolved'
{NEWEST_FIRST}
"""
_TAKE_AWAY = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity AS holder USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32) | objid::bigint = $1::bigint
AND holder.state = 'idle' AND holder.state_change < now() - interval '1 second'
"""
_decode_schemas = msgspec.json.Decoder(dict[str, str]).decode


def _pieces(commit: Commit) -> Iterator[Commit]:
    """A commit as several, the last with all that is not documents, segments or states."""
    piece, left_bytes = Commit(), BESIDE_BYTES
    for name, rows in commit.documents.items():
        for row in rows:
            if left_bytes <= 0:
                yield piece
                piece, left_bytes = Commit(), BESIDE_BYTES
            piece.documents.setdefault(name, []).append(row)
            left_bytes -= len(row[1] or b"") + len(row[2])
    for segment in commit.segments:
        if left_bytes <= 0:
            yield piece
            piece, left_bytes = Commit(), BESIDE_BYTES
        piece.segments.append(segment)
        left_bytes -= len(segment.body)
    for address, value in commit.states.items():
        if left_bytes <= 0:
            yield piece
            piece, left_bytes = Commit(), BESIDE_BYTES
        piece.states[address] = value
        left_bytes -= len(value or b"")
    yield replace(commit, documents=piece.documents, segments=piece.segments, states=piece.states)


class PostgresTransaction(Transaction):
    """One statement that reads, and one that commits if nobody else has."""

    __slots__ = ("_commits", "_connection", "_locked", "_store", "_tail", "_wanted")

    def __init__(self, store: PostgresStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._connection: asyncpg.Connection[Any]

    async def __aenter__(self) -> PostgresTransaction:
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
        most_bytes = wanted.most_bytes
        if sum(map(len, wanted.documents.values())) <= _UNMEASURED:
            most_bytes = None
        statement = sql.transaction_sql(
            collections,
            remembered=bool(wanted.remembered),
            states=bool(wanted.states),
            fences=bool(wanted.fences),
            most_bytes=most_bytes,
        )
        bindings = [kept_all(wanted.documents[name]) for name in collections]
        if wanted.remembered:
            bindings.append(kept_all(wanted.remembered))
        if wanted.states:
            bindings += ([kept(address[at]) for address in wanted.states] for at in range(2))
        if wanted.fences:
            bindings.append(list(wanted.fences))
        self._locked = self._store.crowded_until_s > asyncio.get_running_loop().time()
        lock = self._store.transaction_lock if self._locked else 0
        rows = await self._connection.fetch(statement, lock, *bindings)
        if rows[0]["key"] == "false":
            await self._wait()
            rows = await self._connection.fetch(statement, 0, *bindings)
        _, _, positions, schemas, self._commits, self.clock, self._tail = rows[0]
        self.schemas = _decode_schemas(schemas)
        self.positions = decode_positions(positions)
        self.rows = documents = {}
        self.remembered = answers = {}
        self.states = states = {}
        self.generations = generations = {}
        for part, key, doc, meta, number, *_ in rows[1:]:
            if part >= 0:
                if most_bytes is not None and number > most_bytes:
                    raise too_much(most_bytes)
                documents[collections[part], given(key)] = Row(doc, meta)
            elif part == sql.REMEMBERED:
                answers[given(key)] = meta
            elif part == sql.STATES:
                space, _, name = key.partition("/")
                states[space, given(name)] = meta
            else:
                generations[key] = number
        self.audit = {}
        if wanted.audit:
            found = await self._connection.fetch(_RECORDS, list(wanted.audit))
            self.audit = {row["id"]: AuditRow(*given_all(row)) for row in found}
        open_records: dict[tuple[str, str], list[AuditRow]] = {}
        for collection, keys in wanted.open_records.items():
            found = await self._connection.fetch(_OPEN_RECORDS, collection, [kept(key) for key in keys])
            for row in found:
                record = AuditRow(*given_all(row))
                open_records.setdefault((collection, record.key), []).append(record)
        self.open_records = open_records

    def onto(self, connection: asyncpg.Connection[Any], *, after: Commit | None = None) -> None:
        """Stand on an empty store, or behind a commit of the same transaction."""
        self._connection = connection
        if after is None:
            self._commits, self.clock, self._tail, self.positions, self.schemas = 0, Stamp(0), 0, {}, {}
        else:
            self._commits += 1
            self._tail += len(after.segments)
            self.positions = {**self.positions, **after.positions}

    async def _wait(self) -> None:
        """Wait for the lock behind the others; one that a paused or unreachable node holds is taken from it."""
        state = ""
        for _ in range(_LOCK_WAITS):
            try:
                await self._connection.execute(f"SELECT pg_advisory_lock({self._store.transaction_lock})")
                return
            except Exception as error:
                state = getattr(error, "sqlstate", "") or ""
                if state != "55P03":
                    raise
                await self._connection.fetch(_TAKE_AWAY, self._store.transaction_lock)
        raise StoreUnreachable(
            f"{self._store.database.url.shown} is too busy: the transaction did not start in time"
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

    async def commit(self, commit: Commit) -> None:
        connection, database = self._connection, self._store.database
        for collection in (*commit.documents, *commit.erased):
            self._store.table(collection)
        if connection.is_closed():
            raise StoreUnreachable(
                f"{database.url.shown} went away; it is tried again", store=database.url.shown
            )
        try:
            if commit.size_bytes < BESIDE_BYTES:
                won = await self._write(connection, commit)
            else:
                won = await self._write_much(connection, commit)
        except Exception as error:
            if database.lost(error):
                self._store.drop_writer()
            raise database.failure(error, writing=True) from error
        except BaseException:
            self._store.drop_writer()
            raise
        if not won:
            await self._check_fences(commit)
            self._store.crowded_until_s = asyncio.get_running_loop().time() + _CROWDED_S
            raise lost_to_another_node()

    async def _write(self, connection: asyncpg.Connection[Any], commit: Commit) -> bool:
        """Whether nobody else has committed since."""
        statement, bindings = self._statement(commit)
        return bool(await connection.fetch(statement, *bindings))

    async def _write_much(self, connection: asyncpg.Connection[Any], commit: Commit) -> bool:
        """The same by several statements: the event loop stands still while it encodes one."""
        transaction = connection.transaction()
        try:
            await transaction.start()
            for piece in _pieces(commit):
                if not await self._write(connection, piece):
                    await transaction.rollback()
                    return False
                self.onto(connection, after=piece)
            await transaction.commit()
        except BaseException:
            self._store.drop_writer()  # it may still be in the transaction
            raise
        return True

    async def _check_fences(self, commit: Commit) -> None:
        """Raises FenceLost where that is why nothing was committed."""
        if not commit.fences:
            return
        asked = "SELECT name, generation FROM _leases WHERE name = ANY ($1::text[])"
        held = dict(await self._store.database.rows(asked, list(commit.fences)))
        for name, generation in commit.fences.items():
            if held.get(name) != generation:
                raise fence_lost(name, held.get(name, 0), generation)

    def _statement(self, commit: Commit) -> tuple[str, list[Any]]:
        positions = encode_positions({**self.positions, **commit.positions})
        segments = [(self._tail + at, *segment) for at, segment in enumerate(commit.segments, 1)]
        audit = {row.id: row for row in commit.audit}
        parked = {row[:3]: row for row in commit.parked}
        remembered = {row.key: row for row in commit.remembered}
        parts: dict[str, list[Sequence[Any]]] = {
            "segments": [*segments],
            "audit_removed": [(id,) for id in commit.audit_removed if id not in audit],
            "audit": [*audit.values()],
            "remembered": [*remembered.values()],
            "unparked": [dot for dot in set(commit.unparked) if dot not in parked],
            "parked": [*parked.values()],
            "schemas": [*commit.schemas.items()],
            "states_removed": [address for address, value in commit.states.items() if value is None],
            "states": [(*address, value) for address, value in commit.states.items() if value is not None],
        }
        collections = tuple(sorted(name for name, rows in commit.documents.items() if rows))
        bindings: list[Any] = [
            self._commits,
            commit.clock or 0,
            self._tail + len(segments),
            positions,
            self._store.channel,
            self._store.told(positions),
            self._store.transaction_lock,
        ]
        if commit.fences:
            bindings += [list(commit.fences), list(commit.fences.values())]
        for name in collections:
            keys, docs, metas = zip(*commit.documents[name], strict=True)
            bindings += [kept_all(keys), docs, metas]
        erased = tuple(sorted(name for name, keys in commit.erased.items() if keys))
        bindings += [kept_all(commit.erased[name]) for name in erased]
        present = {name: rows for name, rows in parts.items() if rows}
        for rows in present.values():
            bindings += map(kept_all, zip(*rows, strict=True))
        kinds = frozenset(present) | frozenset({"fences"} if commit.fences else ())
        return sql.commit_sql(collections, erased, kinds), bindings
