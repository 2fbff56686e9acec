"""All that a region's schema in PostgreSQL holds, as one transaction sees it; and an empty one filled with that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from atoll.store.port import Chunk, Commit, Parked, Remembered, Segment
from atoll.store.postgresql import sql
from atoll.store.postgresql.sql import audit_row, given
from atoll.store.postgresql.watch import decode_positions

if TYPE_CHECKING:
    import asyncpg

_CHUNK_BYTES = 2 << 20
_CHUNK_ROWS = 5_000
_ROWS_AT_ONCE = 200
_HELD = ("_journal", "_counters", "_states", "_audit", "_remembered", "_parked")
_TABLES = r"""
SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
AND relname LIKE '\_doc\_%' ORDER BY relname COLLATE "C"
"""


async def is_empty(connection: asyncpg.Connection[Any]) -> bool:
    """Whether nothing was ever committed; until the transaction ends nobody else commits."""
    if await connection.fetchval("SELECT commits FROM _region FOR UPDATE"):
        return False
    held = [*_HELD, *(sql.quoted_name(row[0]) for row in await connection.fetch(_TABLES))]
    asked = " OR ".join(f"EXISTS (SELECT FROM {table})" for table in held)
    return not await connection.fetchval(f"SELECT {asked}")


async def clear(connection: asyncpg.Connection[Any]) -> None:
    """As if nothing had ever been committed, in this transaction; tables, views and settings stay."""
    await connection.execute("UPDATE _region SET commits = 0, clock = 0, journal_tail = 0, positions = '{}'")
    await connection.execute("UPDATE _leases SET until = '-infinity'")  # their generations go on
    held = [*_HELD, "_schemas"]
    held += [sql.quoted_name(row[0]) for row in await connection.fetch(_TABLES)]
    await connection.execute(f"TRUNCATE {', '.join(held)}")


async def chunks_of(connection: asyncpg.Connection[Any]) -> AsyncGenerator[Chunk, None]:
    """Inside a transaction of one snapshot. The first piece holds the small things, and names all collections."""
    collections = await _collections(connection)
    clock, positions = await connection.fetchrow("SELECT clock, positions FROM _region")
    yield Chunk(
        Commit(
            documents={name: [] for name in collections},
            positions=decode_positions(positions),
            clock=clock,
            schemas=dict(await connection.fetch("SELECT collection, fingerprint FROM _schemas")),
        ),
        dict(await connection.fetch("SELECT name, value FROM _counters")),
    )
    for name in collections:
        async for rows in _runs(
            connection, f"SELECT key, doc, meta FROM {sql.table_of(name)} ORDER BY key", _document
        ):
            yield Chunk(Commit(documents={name: rows}))
    async for rows in _runs(
        connection, "SELECT origin, first_seq, last_seq, body FROM _journal ORDER BY id", Segment._make
    ):
        yield Chunk(Commit(segments=rows))
    async for rows in _runs(connection, "SELECT space, key, value FROM _states ORDER BY space, key", _state):
        yield Chunk(Commit(states=dict(rows)))
    async for rows in _runs(connection, f"SELECT {sql.AUDIT_COLUMNS} FROM _audit ORDER BY id", audit_row):
        yield Chunk(Commit(audit=rows))
    async for rows in _runs(
        connection, "SELECT key, at_ms, answer FROM _remembered ORDER BY key", _remembered
    ):
        yield Chunk(Commit(remembered=rows))
    async for rows in _runs(
        connection,
        "SELECT origin, seq, change, cause, reason, body FROM _parked ORDER BY origin, seq, change",
        _parked,
    ):
        yield Chunk(Commit(parked=rows))


async def _collections(connection: asyncpg.Connection[Any]) -> list[str]:
    """A name too long for a table's is known from the declarations."""
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    declared = [row[0] for row in await connection.fetch("SELECT collection FROM _schemas")]
    of_table = {sql.table_of(name): name for name in [*(table[5:] for table in tables), *declared]}
    return sorted(of_table[sql.quoted_name(table)] for table in tables)


async def _runs(
    connection: asyncpg.Connection[Any], query: str, made: Callable[[Sequence[Any]], Any]
) -> AsyncGenerator[list[Any], None]:
    rows: list[Any] = []
    size_bytes = 0
    async for row in connection.cursor(query, prefetch=_ROWS_AT_ONCE):
        rows.append(made(tuple(row)))
        size_bytes += sum(len(value) for value in row if isinstance(value, bytes | str))
        if size_bytes >= _CHUNK_BYTES or len(rows) >= _CHUNK_ROWS:
            yield rows
            rows, size_bytes = [], 0
    if rows:
        yield rows


def _document(row: Sequence[Any]) -> tuple[str, bytes | None, bytes]:
    return given(row[0]), row[1], row[2]


def _state(row: Sequence[Any]) -> tuple[tuple[str, str], bytes]:
    return (row[0], given(row[1])), row[2]


def _remembered(row: Sequence[Any]) -> Remembered:
    return Remembered(given(row[0]), row[1], row[2])


def _parked(row: Sequence[Any]) -> Parked:
    read = Parked._make(row)
    return read._replace(reason=given(read.reason))
