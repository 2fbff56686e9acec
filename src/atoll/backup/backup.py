"""A region's whole store into an archive, and back.

A backup reads one moment while the region serves. A restore creates a new store from it and marks it
as restored. So the region serves nothing until it has what its peers had (`recovery.restore`). The restore also
raises the counters of identifiers past all that may have been used since (`ids.after_restore`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import BinaryIO

from atoll.backup.archive import ArchiveReader, ArchiveWriter, Header, Totals
from atoll.config.config import Config
from atoll.config.version import VERSION
from atoll.errors import ConfigError, StoreError, StoreUnwritable
from atoll.ids.after_restore import counters_after_restore
from atoll.recovery.restore import RESTORED, without
from atoll.store.exclusive import sync
from atoll.store.port import Chunk, Maintenance, Store
from atoll.store.postgresql.url import is_postgresql
from atoll.store.replacing import replace_sqlite
from atoll.store.sqlite.store import open_sqlite

Tell = Callable[[int, int, int | None], None]
"""`tell(rows, done, total)`: rows so far; bytes of the archive that were read, of how many, where that is known."""


async def back_up(config: Config, region: str, path: Path, now_ms: int, tell: Tell, *, force: bool) -> Totals:
    """The region's data, which may be serving, as of one moment.

    Raises ConfigError where there is no data or `path` already exists, StoreUnwritable.
    """
    config.region(region)
    if not force:
        _check_absent(path)
    store = await _opened_store(config, region)
    part = path.with_name(path.name + ".part")
    try:
        created = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(created, "wb") as file:
            header = Header(config.name, region, now_ms, VERSION)
            totals = await write_archive(store, file, header, tell)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        raise StoreUnwritable(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        await store.close()
        part.unlink(missing_ok=True)
    return totals


async def write_archive(
    store: Maintenance, file: BinaryIO, header: Header, tell: Tell = lambda *_: None
) -> Totals:
    """All that a store holds, as of one moment."""
    writer = ArchiveWriter(file, header)
    async for chunk in store.contents():
        writer.chunk(chunk)
        tell(writer.totals.rows, 0, None)
    writer.end()
    return writer.totals


def verify(path: Path, tell: Tell) -> tuple[Header, Totals]:
    """Read all of an archive. Raises StoreCorrupt, ConfigError."""
    with _opened(path) as file:
        reader = ArchiveReader(file, path)
        total = path.stat().st_size
        for _ in reader.chunks():
            tell(reader.totals.rows, file.tell(), total)
        return reader.header, reader.totals


async def restore(
    config: Config,
    region: str,
    path: Path,
    now_ms: int,
    tell: Tell,
    *,
    gone: Collection[str] = (),
    force: bool = False,
) -> Totals:
    """The region's store as the archive has it; the region must not run. `gone` names peers that never return.

    Raises StoreCorrupt for a damaged archive, and ConfigError for one of another deployment or region. Raises
    StoreError if the region holds data and `force` is not given. Raises StoreLocked, ClockUnsafe. After an error
    nothing is changed.
    """
    settings = config.region(region)
    for peer in gone:
        if config.region(peer).name == settings.name:
            raise ConfigError(
                f"--without names peers that are permanently lost, and {region} is the region itself"
            )
    header, totals = verify(path, lambda *_: None)
    for what, found, wanted in (
        ("deployment", header.deployment, config.name),
        ("region", header.region, settings.name),
    ):
        if found != wanted:
            raise ConfigError(
                f"{path}: is a backup of {what} {found!r}, not of {wanted!r}; each region is restored from its own"
            )
    chunks = _restored(path, header, now_ms, gone, tell)
    if is_postgresql(settings.store):
        from atoll.store.postgresql.store import open_postgresql

        store = open_postgresql(settings.store, region=region, deployment=config.name)
        try:
            await (store.replace(chunks) if force else store.fill(chunks))
        finally:
            await store.close()
        return totals
    data = config.region_data(region)
    _check_room(data, path)
    await replace_sqlite(data, region=settings.name, deployment=config.name, chunks=chunks, force=force)
    return totals


async def _opened_store(config: Config, region: str) -> Store:
    """Beside the running region: SQLite for reading only."""
    url = config.region(region).store
    if is_postgresql(url):
        from atoll.store.postgresql.store import open_postgresql

        return open_postgresql(url, region=region, deployment=config.name)
    return open_sqlite(config.region_data(region), region=region, deployment=config.name, read_only=True)


async def restored_chunks(
    reader: ArchiveReader, now_ms: int, gone: Collection[str], tell: Callable[[int], None] = lambda _: None
) -> AsyncIterator[Chunk]:
    """The pieces, and at last the marks. Raises StoreCorrupt, ClockUnsafe."""
    counters: dict[str, int] = {}
    for chunk in reader.chunks():
        counters |= chunk.counters
        yield chunk
        tell(reader.totals.rows)
    # Above what the archive may hold of an earlier restore, whatever the clock says.
    restored_ms = max(now_ms, counters.get(RESTORED, 0) + 1)
    marks = {RESTORED: restored_ms} | {without(peer): restored_ms for peer in gone}
    yield Chunk(
        counters=marks | counters_after_restore(counters, made_ms=reader.header.made_ms, now_ms=now_ms)
    )


async def _restored(
    path: Path, header: Header, now_ms: int, gone: Collection[str], tell: Tell
) -> AsyncIterator[Chunk]:
    with _opened(path) as file:
        reader = ArchiveReader(file, path)
        if reader.header != header:
            raise StoreError(f"{path}: was replaced while it was read; nothing was changed")
        total = os.fstat(file.fileno()).st_size
        async for chunk in restored_chunks(reader, now_ms, gone, lambda rows: tell(rows, file.tell(), total)):
            yield chunk


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _check_absent(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path}: already exists; --force replaces it")


def _check_room(folder: Path, archive: Path) -> None:
    """The new store stands beside the old one, and is larger than its archive."""
    while not folder.exists():
        folder = folder.parent
    size, free = archive.stat().st_size, shutil.disk_usage(folder).free
    if free < size:
        raise StoreUnwritable(f"{folder} has room for {free:,} bytes, and the archive alone takes {size:,}")
