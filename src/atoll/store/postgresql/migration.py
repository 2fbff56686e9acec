"""The tables of Atoll's own in a region's PostgreSQL database: made, or brought to this version's format."""

from __future__ import annotations

import hashlib
import logging
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from atoll.errors import AtollError, ConfigError
from atoll.store.postgresql.database import Database, driver, hang_up, lock_number
from atoll.store.postgresql.history import History
from atoll.store.postgresql.sql import quoted_name
from atoll.store.refusals import check_format

if TYPE_CHECKING:
    import asyncpg

LEAST_VERSION = 16
MIGRATIONS = ("schema.sql",)
"""The first makes the tables, in FIRST_FORMAT; each one more leads to the next format."""
FIRST_FORMAT = 2
"""Earlier ones hold entries in another encoding."""
FUNCTIONS = "functions.sql"

logger = logging.getLogger("atoll.store")


def script_text(name: str) -> str:
    return files("atoll.store.postgresql").joinpath(name).read_text("utf-8")


async def prepare(database: Database) -> None:
    """Make the schema and its tables, or bring them to this version's format; of many nodes one does it.

    Raises ConfigError for another region's schema, a newer format, an unfit server, and missing rights.
    """
    await database.survey()
    connection = await database.connect(long=True)
    try:
        await _examine(database, connection)
        async with connection.transaction():
            await connection.execute(
                f"SELECT pg_advisory_xact_lock({lock_number('atoll', database.schema, 'migrate')})"
            )
            await _migrate(database, connection)
            # Whoever finds another one there has missed a failover, or holds a copy.
            await connection.execute(
                "INSERT INTO _settings (name, value) VALUES ('history', $1) ON CONFLICT DO NOTHING",
                str(database.history or History()),
            )
    except AtollError:
        raise
    except driver().ReadOnlySQLTransactionError as error:
        if not await _identified(database, connection):
            raise database.failure(error) from None
    except driver().InsufficientPrivilegeError as error:
        raise ConfigError(
            f"{database.where}: {error}. An administrator has to run, for the role of `store`: "
            f"CREATE SCHEMA {quoted_name(database.schema)} AUTHORIZATION <role>"
        ) from None
    except Exception as error:
        raise database.failure(error) from error
    finally:
        await hang_up(connection)


async def _examine(database: Database, connection: asyncpg.Connection[Any]) -> None:
    version = connection.get_server_version()
    if version.major < LEAST_VERSION:
        raise ConfigError(
            f"{database.url.shown} is PostgreSQL {version.major}; Atoll needs {LEAST_VERSION} or later"
        )
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise ConfigError(
            f"{database.url.shown} has encoding {encoding}: create the database with encoding UTF8"
        )
    if await connection.fetchval("SHOW fsync") == "off":
        database.warning = (
            "the database runs with fsync = off: a power cut loses acknowledged writes, or all data"
        )
        logger.warning("%s: %s", database.url.shown, database.warning)


async def _format(database: Database, connection: asyncpg.Connection[Any]) -> int:
    found = await connection.fetchval(
        "SELECT to_regclass($1) IS NOT NULL", f"{quoted_name(database.schema)}._settings"
    )
    if not found:
        return 0
    settings = dict(
        await connection.fetch(f"SELECT name, value FROM {quoted_name(database.schema)}._settings")
    )
    for what, wanted in (("deployment", database.deployment), ("region", database.region)):
        if settings.get(what) != wanted:
            raise ConfigError(
                f"{database.where} belongs to {what} {settings.get(what)!r}, not {wanted!r}: correct `store` in "
                "atoll.toml, or give this region a schema of its own with ?schema="
            )
    found = int(settings["format"])
    if not FIRST_FORMAT <= found <= _newest_format():
        check_format(database.where, found, _newest_format())
    return found


async def _identified(database: Database, connection: asyncpg.Connection[Any]) -> bool:
    """Whether a database that takes no writes can be read from, as it is."""
    return await _format(database, connection) == _newest_format() and await _defined(connection)


async def _migrate(database: Database, connection: asyncpg.Connection[Any]) -> None:
    found = await _format(database, connection)
    if found != _newest_format():
        await _bring(database, connection, found)
    if not await _defined(connection):
        await connection.execute(script_text(FUNCTIONS))
        await connection.execute(
            "INSERT INTO _settings (name, value) VALUES ('functions', $1) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            _digest(),
        )


async def _defined(connection: asyncpg.Connection[Any]) -> bool:
    """Whether the database has this version's functions."""
    return bool(
        await connection.fetchval("SELECT value = $1 FROM _settings WHERE name = 'functions'", _digest())
    )


def _digest() -> str:
    return hashlib.blake2b(script_text(FUNCTIONS).encode(), digest_size=16).hexdigest()


async def _bring(database: Database, connection: asyncpg.Connection[Any], found: int) -> None:
    newest = _newest_format()
    if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quoted_name(database.schema)):
        await connection.execute(f"CREATE SCHEMA {quoted_name(database.schema)}")
    if found == 0:
        await connection.execute("CREATE TABLE _settings (name text PRIMARY KEY, value text NOT NULL)")
        await connection.executemany(
            "INSERT INTO _settings (name, value) VALUES ($1, $2)",
            [("format", "0"), ("region", database.region), ("deployment", database.deployment)],
        )
    for script in MIGRATIONS[found and found - FIRST_FORMAT + 1 :]:
        await connection.execute(script_text(script))
    await connection.execute("UPDATE _settings SET value = $1 WHERE name = 'format'", str(newest))
    logger.info("%s: format %d, was %d", database.where, newest, found)


def _newest_format() -> int:
    return FIRST_FORMAT + len(MIGRATIONS) - 1
