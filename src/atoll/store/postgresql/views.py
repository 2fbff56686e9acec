"""What people and their tools see of a region's PostgreSQL schema: a view for each collection, and declared indexes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atoll.errors import AtollError
from atoll.store.port import ColumnKind, Shape
from atoll.store.postgresql.database import Database, hang_up, lock_number
from atoll.store.postgresql.sql import index_expressions, literal, named, quoted_name, table_of

if TYPE_CHECKING:
    import asyncpg

_TYPES: dict[ColumnKind, str] = {
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "time": "timestamptz",
    "date": "date",
    "uuid": "uuid",
}

logger = logging.getLogger("atoll.store")


def view_sql(shape: Shape) -> str:
    """Column by column, null where a document holds something else: reading a view never fails."""
    selected = ", ".join(
        ["key", *(f"{_column(name, kind)} AS {quoted_name(name)}" for name, kind in shape.columns)]
    )
    return (
        f"CREATE VIEW {named('', shape.collection)} AS SELECT {selected} "
        f"FROM (SELECT key, _plain(doc) AS plain FROM {table_of(shape.collection)} WHERE doc IS NOT NULL) AS documents"
    )


def _column(name: str, kind: ColumnKind) -> str:
    member = f"plain -> {literal(name)}"
    if kind == "json":
        return f"({member})"
    text = f"(plain ->> {literal(name)})"
    if kind == "text":
        return text
    target = _TYPES[kind]
    # PostgreSQL reads words such as `yesterday` as times, too.
    dated = f"{text} ~ '^[0-9]{{4}}-' AND " if kind in ("time", "date") else ""
    return f"CASE WHEN {dated}pg_input_is_valid({text}, '{target}') THEN {text}::{target} END"


def indexes_sql(shape: Shape) -> dict[str, str]:
    """name, quoted → statement."""
    found = {}
    for field in shape.indexes:
        for kind, expression in index_expressions(field, decimal=field in shape.decimals).items():
            name = named("_by_", f"{kind}_{shape.collection}_{field}")
            found[name] = (
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table_of(shape.collection)} "
                f"(({expression}), key)"
            )
    return found


async def declare(database: Database, shapes: Sequence[Shape]) -> None:
    """Make what is missing or has changed, and drop indexes that are no longer declared; of many nodes one does it.

    A view that cannot be replaced, because something of the team's own depends on it, stays as it is.
    """
    wanted = {named("", shape.collection): view_sql(shape) for shape in shapes}
    indexes = {name: statement for shape in shapes for name, statement in indexes_sql(shape).items()}
    held = dict(await database.rows("SELECT name, definition FROM _declared"))
    stale = [name for name in held if name.startswith('"_by_') and name not in indexes]
    missing = {name: text for name, text in {**wanted, **indexes}.items() if held.get(name) != text}
    if not missing and not stale:
        return
    connection = await database.connect(long=True)
    try:
        await connection.execute(
            f"SELECT pg_advisory_lock({lock_number('atoll', database.schema, 'declare')})"
        )
        for name in stale:
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            await connection.execute("DELETE FROM _declared WHERE name = $1", name)
        for name, statement in missing.items():
            if name in indexes:
                await _make_index(connection, name, statement)
            else:
                await _make_view(connection, name, statement)
    except AtollError:
        raise
    except Exception as error:
        raise database.failure(error) from error
    finally:
        await hang_up(connection)


async def _make_index(connection: asyncpg.Connection[Any], name: str, statement: str) -> None:
    logger.info("building index %s", name)
    broken = await connection.fetchval(
        "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid", name
    )
    if broken:  # left by a node that was stopped while it built it
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    await connection.execute(statement)
    await _note(connection, name, statement)


async def _make_view(connection: asyncpg.Connection[Any], name: str, statement: str) -> None:
    async with connection.transaction():
        try:
            async with connection.transaction():
                await connection.execute(f"DROP VIEW IF EXISTS {name}")
                await connection.execute(statement)
        except Exception as error:
            if getattr(error, "sqlstate", "") not in ("2BP01", "42P07", "42809"):
                raise
            logger.warning("the view %s stays as it is: %s", name, error)
            return
        await _note(connection, name, statement)


async def _note(connection: asyncpg.Connection[Any], name: str, statement: str) -> None:
    await connection.execute(
        "INSERT INTO _declared (name, definition) VALUES ($1, $2) "
        "ON CONFLICT (name) DO UPDATE SET definition = excluded.definition",
        name,
        statement,
    )
