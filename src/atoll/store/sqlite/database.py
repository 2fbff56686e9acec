"""Opening a region's SQLite database: create it, make sure that it is this region's, or fall back to reading.

Page size 4096: with 8192 and 16384 single commits run at 80 and 60% of its rate (1 kB documents).
The caches are bounded, and reads are not memory-mapped: beside a writer that made them 2.5 times slower.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw

from atoll.errors import ConfigError, StoreCorrupt, StoreUnwritable
from atoll.store.exclusive import RegionLock, sync
from atoll.store.refusals import check_format
from atoll.store.scanning import COMPARE
from atoll.store.typed import compare

DATABASE_FILE = "region.sqlite"
FORMAT = 2

PAGE_BYTES = 4096
WAL_KEPT_BYTES = 64 << 20
_WRITER_CACHE_KIB = 48 << 10
_READER_CACHE_KIB = 16 << 10
_BUSY_MS = 5_000
_STATEMENTS_KEPT = 512

_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
_READ = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI

UNWRITABLE = (
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.BusyError,
    apsw.LockedError,
)
CORRUPT = (apsw.CorruptError, apsw.NotADBError)


@dataclass(frozen=True, slots=True)
class Opened:
    """The connections of one store. Without a writer, `refusal` says why there is none."""

    database: Path
    reader: apsw.Connection
    writer: apsw.Connection | None
    lock: RegionLock | None
    refusal: str
    vfs: str | None


def open_database(folder: Path, *, region: str, deployment: str, read_only: bool, vfs: str | None) -> Opened:
    """Open or create the database in `folder`; errors as in `open_sqlite`."""
    database = folder / DATABASE_FILE
    _check_format_untouched(database, vfs)
    if read_only:
        if not database.exists():
            raise ConfigError(
                f"{folder} holds no region's database ({DATABASE_FILE}): check `data` in atoll.toml, "
                "or start the region once"
            )
        refusal = f"{database} was opened for reading only"
        return _open_for_reading(database, region, deployment, refusal, vfs)
    lock: RegionLock | None = None
    writer: apsw.Connection | None = None
    try:
        _make_folder(folder)
        lock = RegionLock.acquire(folder)
        writer = connect(database, vfs, cache_kib=_WRITER_CACHE_KIB)
        if not writer.execute("SELECT count(*) FROM sqlite_schema").get:
            _create(writer, region, deployment)
        _identify(writer, database, region, deployment)
        return Opened(database, connect_reader(str(database), vfs), writer, lock, "", vfs)
    except BaseException as error:
        if writer is not None:
            writer.close()
        if lock is not None:
            lock.release()
        if isinstance(error, CORRUPT):
            raise corrupt(database, error) from error
        if isinstance(error, (OSError, *UNWRITABLE)):
            return _fall_back(database, region, deployment, error, vfs)
        raise


def connect(database: Path, vfs: str | None, *, cache_kib: int = 2_048) -> apsw.Connection:
    """A connection that can write and checkpoint. Raises apsw.ReadOnlyError where it could only read."""
    connection = apsw.Connection(str(database), _WRITE, vfs=vfs, statementcachesize=_STATEMENTS_KEPT)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        if connection.readonly("main"):
            raise apsw.ReadOnlyError("the file is write-protected")
        connection.pragma("page_size", PAGE_BYTES)
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.pragma("cache_size", -cache_kib)
        connection.pragma("mmap_size", 0)
        connection.pragma("temp_store", "MEMORY")
        # Checkpoints belong to `SqliteStore`: SQLite's own would not tell of an fsync that failed.
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("journal_size_limit", WAL_KEPT_BYTES)
        add_functions(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def add_functions(connection: apsw.Connection) -> None:
    """What `scanning.condition_sql` asks. No index or view holds it, so other tools can read the database."""

    def compared(*values: Any) -> int | None:
        return compare(*values)

    connection.create_scalar_function(COMPARE, compared, 3, deterministic=True)


def unwritable(database: Path, error: BaseException, *, opening: bool = False) -> StoreUnwritable:
    """What to tell of a disk that does not take writes. A region opened without a writer stays without."""
    match error:
        case apsw.FullError() | OSError(errno=errno.ENOSPC):
            reason, remedy = "the disk is full", "free some space"
            remedy += ", then restart the region" if opening else ": writes then work again by themselves"
        case OSError(errno=errno.EROFS) | apsw.ReadOnlyError() | PermissionError() | apsw.PermissionsError():
            reason = "it is read-only"
            remedy = "make the folder and its files writable and restart the region"
        case apsw.BusyError() | apsw.LockedError():
            reason, remedy = "another program holds it locked", "end that program's transaction"
        case _:
            reason = "the disk fails, or has no room" if opening else "the disk fails"
            remedy = "check the disk, its mount and the system's log"
            remedy += ", then restart the region" if opening else ""
    return StoreUnwritable(
        f"{database} cannot be written: {reason} ({error}); {remedy}. Reads continue",
        reason=reason,
        database=str(database),
    )


def corrupt(database: Path, error: BaseException) -> StoreCorrupt:
    """What to tell of a file that is not, or is no longer, a sound database."""
    return StoreCorrupt(
        f"{database} is damaged or no database ({error}): "
        "move the folder aside and rebuild the region from its peers",
        database=str(database),
    )


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder.parent)  # else a power cut could take the folder, and every commit in it


def _create(writer: apsw.Connection, region: str, deployment: str) -> None:
    script = files("atoll.store.sqlite").joinpath("schema.sql").read_text("utf-8")
    with writer:
        writer.execute(script)
        writer.executemany(
            "INSERT INTO settings (name, value) VALUES (?, ?)",
            [("format", FORMAT), ("region", region), ("deployment", deployment)],
        )


def _check_format_untouched(database: Path, vfs: str | None) -> None:
    """Raises ConfigError for another format, before anything is opened in a way that could change a file.

    Even a connection that only reads takes locks, and one that may write recovers and empties the write-ahead log.
    """
    try:
        found = _format_in(f"{database.absolute().as_uri()}?immutable=1", vfs)
        if found is None and _wal_size(database) and database.stat().st_size <= PAGE_BYTES:
            # Nothing was ever checkpointed: all is in the log, which an immutable connection passes over.
            with TemporaryDirectory() as folder:
                copy = Path(folder) / DATABASE_FILE
                shutil.copyfile(database, copy)
                shutil.copyfile(f"{database}-wal", f"{copy}-wal")
                found = _format_in(str(copy), None)
    except (OSError, apsw.Error):
        return  # absent, damaged or out of reach: opening it in earnest tells
    if found is not None:
        check_format(str(database), found, FORMAT)


def _format_in(filename: str, vfs: str | None) -> int | None:
    """None where it is not said. Raises apsw.Error."""
    connection = apsw.Connection(filename, _READ, vfs=vfs)
    try:
        found = connection.execute("SELECT value FROM settings WHERE name = 'format'").get
    except apsw.SQLError:
        return None
    finally:
        connection.close()
    return found if isinstance(found, int) else None


def _identify(connection: apsw.Connection, database: Path, region: str, deployment: str) -> None:
    try:
        settings = dict(connection.execute("SELECT name, value FROM settings"))
    except apsw.SQLError as error:
        raise StoreCorrupt(
            f"{database} is not an Atoll database ({error}): give the region another folder",
            database=str(database),
        ) from error
    found = settings.get("format")
    if not isinstance(found, int):
        raise StoreCorrupt(f"{database} does not say its format: it is damaged", database=str(database))
    check_format(str(database), found, FORMAT)
    for what, wanted in (("deployment", deployment), ("region", region)):
        if settings.get(what) != wanted:
            raise ConfigError(
                f"{database} belongs to {what} {settings.get(what)!r}, not {wanted!r}: "
                "correct `data` in atoll.toml, or move that folder away"
            )


def connect_reader(filename: str, vfs: str | None) -> apsw.Connection:
    connection = apsw.Connection(filename, _READ, vfs=vfs, statementcachesize=_STATEMENTS_KEPT)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("cache_size", -_READER_CACHE_KIB)
        connection.pragma("mmap_size", 0)
        connection.pragma("temp_store", "MEMORY")
        add_functions(connection)
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # opens the file and its WAL now
    except BaseException:
        connection.close()
        raise
    return connection


def _fall_back(database: Path, region: str, deployment: str, error: BaseException, vfs: str | None) -> Opened:
    """Read what is there when it cannot be written; raise StoreUnwritable when there is nothing to read."""
    refused = unwritable(database, error, opening=True)
    try:
        if database.stat().st_size:
            return _open_for_reading(database, region, deployment, refused.message, vfs)
    except OSError:
        pass
    raise StoreUnwritable(
        refused.message.removesuffix(". Reads continue") + ". There is no database to read from either",
        **refused.details,
    ) from error


def _open_for_reading(database: Path, region: str, deployment: str, refusal: str, vfs: str | None) -> Opened:
    reader: apsw.Connection | None = None
    try:
        try:
            reader = connect_reader(str(database), vfs)
        except UNWRITABLE:
            # WAL mode wants to create files beside the database. Without a WAL nobody is writing, and the
            # file can be read as it stands.
            if _wal_size(database):
                raise
            reader = connect_reader(f"{database.absolute().as_uri()}?immutable=1", vfs)
        _identify(reader, database, region, deployment)
    except BaseException as error:
        if reader is not None:
            reader.close()
        if isinstance(error, CORRUPT):
            raise corrupt(database, error) from error
        if isinstance(error, apsw.Error):
            raise StoreUnwritable(
                f"{refusal}, and cannot be read in this state ({error}): make the folder writable, so that "
                "the write-ahead log of the last run can be recovered",
                database=str(database),
            ) from error
        raise
    return Opened(database, reader, None, None, refusal, vfs)


def _wal_size(database: Path) -> int:
    try:
        return os.stat(f"{database}-wal").st_size
    except FileNotFoundError:
        return 0
