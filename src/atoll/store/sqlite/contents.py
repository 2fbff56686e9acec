"""All that a region's SQLite database holds, as one read transaction sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apsw

from atoll.store.port import AuditRow, Chunk, Commit, Parked, Remembered, Segment

COLLECTION_TABLES = (
    r"SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'doc\_%' ESCAPE '\' ORDER BY name"
)
_CHUNK_BYTES = 2 << 20
_CHUNK_ROWS = 5_000
_HELD = ("journal", "positions", "counters", "states", "audit", "remembered", "parked")


def is_empty(connection: apsw.Connection) -> bool:
    """Whether nothing was ever committed."""
    tables = [*_HELD, *(f'"{name}"' for (name,) in connection.execute(COLLECTION_TABLES))]
    return not any(connection.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").get for table in tables)


def chunks_of(connection: apsw.Connection) -> Iterator[Chunk]:
    """The first piece holds the small things, and names all collections, also those without documents."""
    collections = [str(name) for (name,) in connection.execute(COLLECTION_TABLES).fetchall()]
    settings = dict(connection.execute("SELECT name, value FROM settings"))
    yield Chunk(
        Commit(
            documents={table[4:]: [] for table in collections},
            positions=dict(connection.execute("SELECT origin, seq FROM positions")),
            clock=int(settings.get("clock", 0)),
            schemas={name[7:]: value for name, value in settings.items() if name.startswith("schema ")},
        ),
        dict(connection.execute("SELECT name, value FROM counters")),
    )
    for table in collections:
        quoted = table.replace('"', '""')
        sql = f'SELECT key, CAST(value AS BLOB), meta FROM "{quoted}" ORDER BY key'
        yield from _chunks(connection, sql, lambda rows, name=table[4:]: Commit(documents={name: rows}))  # type: ignore[misc]
    yield from _chunks(
        connection,
        "SELECT origin, first_seq, last_seq, body FROM journal ORDER BY id",
        lambda rows: Commit(segments=[Segment._make(row) for row in rows]),
    )
    yield from _chunks(
        connection,
        "SELECT space, key, value FROM states ORDER BY space, key",
        lambda rows: Commit(states={(space, key): value for space, key, value in rows}),
    )
    columns = ", ".join(AuditRow._fields[:-1])
    yield from _chunks(
        connection,
        f"SELECT {columns}, CAST(body AS BLOB) FROM audit ORDER BY id",
        lambda rows: Commit(
            audit=[found._replace(uncertain=bool(found.uncertain)) for found in map(AuditRow._make, rows)]
        ),
    )
    yield from _chunks(
        connection,
        "SELECT key, at_ms, answer FROM remembered ORDER BY key",
        lambda rows: Commit(remembered=[Remembered._make(row) for row in rows]),
    )
    yield from _chunks(
        connection,
        'SELECT origin, seq, "index", cause, reason, body FROM parked ORDER BY origin, seq, "index"',
        lambda rows: Commit(parked=[Parked._make(row) for row in rows]),
    )


def _chunks(connection: apsw.Connection, sql: str, commit: Callable[[list[Any]], Commit]) -> Iterator[Chunk]:
    rows: list[Any] = []
    size_bytes = 0
    for row in connection.execute(sql):
        rows.append(row)
        size_bytes += sum(len(value) for value in row if isinstance(value, bytes | str))
        if size_bytes >= _CHUNK_BYTES or len(rows) >= _CHUNK_ROWS:
            yield Chunk(commit(rows))
            rows, size_bytes = [], 0
    if rows:
        yield Chunk(commit(rows))
