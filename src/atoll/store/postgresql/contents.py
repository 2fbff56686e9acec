"""All that a region's schema in PostgreSQL holds, as one transaction sees it; and an empty one filled with that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from atoll.store.port import Chunk, Commit
from atoll.store.postgresql import sql
from atoll.store.postgresql.watch import decode_positions
from atoll.store.queries import HELD, SECTIONS, Gathering, Section

if TYPE_CHECKING:
    import asyncpg

_ROWS_AT_ONCE = 200
_HELD = tuple(f"_{table}" for table in HELD)
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
    first = Commit(
        documents={name: [] for name in collections},
        positions=decode_positions(positions),
        clock=clock,
        schemas=dict(await connection.fetch("SELECT collection, fingerprint FROM _schemas")),
    )
    yield Chunk(first, dict(await connection.fetch("SELECT name, value FROM _counters")))
    sections = [
        Section(sql.table_of(name), ("key", "doc", "meta"), "key", _documents_of(name))
        for name in collections
    ]
    sections += [section._replace(table=f"_{section.table}") for section in SECTIONS]
    for table, columns, order, commit in sections:
        gathering = Gathering(commit)
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"
        async for row in connection.cursor(query, prefetch=_ROWS_AT_ONCE):
            for chunk in gathering.add(sql.given_all(row)):
                yield chunk
        for chunk in gathering.rest():
            yield chunk


def _documents_of(collection: str) -> Callable[[list[Any]], Commit]:
    return lambda rows: Commit(documents={collection: rows})


async def _collections(connection: asyncpg.Connection[Any]) -> list[str]:
    """A name too long for a table's is known from the declarations."""
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    declared = [row[0] for row in await connection.fetch("SELECT collection FROM _schemas")]
    of_table = {sql.table_of(name): name for name in [*(table[5:] for table in tables), *declared]}
    return sorted(of_table[sql.quoted_name(table)] for table in tables)
