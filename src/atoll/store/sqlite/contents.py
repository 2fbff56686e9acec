"""All that a region's SQLite database holds, as one read transaction sees it."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from atoll.causality.types import Stamp
from atoll.store.port import Chunk, Commit
from atoll.store.queries import HELD, SECTIONS, Gathering
from atoll.store.sqlite.sql import COLLECTION_TABLES, SELECT_AUDIT, SELECT_DOCUMENTS, Statements


def is_empty(connection: apsw.Connection) -> bool:
    """Whether nothing was ever committed."""
    collections = (Statements.of(name[4:]).table for (name,) in connection.execute(COLLECTION_TABLES))
    tables = [*HELD, "positions", *collections]
    return not any(connection.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").get for table in tables)


def chunks_of(connection: apsw.Connection) -> Iterator[Chunk]:
    """The first piece holds the small things, and names all collections, also those without documents."""
    collections = [str(name)[4:] for (name,) in connection.execute(COLLECTION_TABLES).fetchall()]
    settings = dict(connection.execute("SELECT name, value FROM settings"))
    first = Commit(
        documents={name: [] for name in collections},
        positions=dict(connection.execute("SELECT origin, seq FROM positions")),
        clock=Stamp(int(settings.get("clock", 0))),
        schemas={name[7:]: value for name, value in settings.items() if name.startswith("schema ")},
    )
    yield Chunk(first, dict(connection.execute("SELECT name, value FROM counters")))
    for name in collections:
        gathering = Gathering(lambda rows, name=name: Commit(documents={name: rows}))  # type: ignore[misc]
        for row in connection.execute(f"{SELECT_DOCUMENTS} {Statements.of(name).table} ORDER BY key"):
            yield from gathering.add(row)
        yield from gathering.rest()
    for table, columns, order, commit in SECTIONS:
        select = SELECT_AUDIT if table == "audit" else f"SELECT {', '.join(columns)} FROM {table}"
        gathering = Gathering(commit)
        for row in connection.execute(f"{select} ORDER BY {order}"):
            yield from gathering.add(row)
        yield from gathering.rest()
