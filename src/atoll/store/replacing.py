"""A region's embedded store replaced by another: what was there stays until the new one is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from atoll.errors import AtollError, StoreError, StoreUnwritable
from atoll.store.exclusive import RegionLock, sync
from atoll.store.port import Chunk
from atoll.store.sqlite.database import DATABASE_FILE
from atoll.store.sqlite.store import open_sqlite

_MAKING = "restoring"
"""The folder, in the region's own, where the new store is made."""


async def replace_sqlite(
    folder: Path, *, region: str, deployment: str, chunks: AsyncIterable[Chunk], force: bool
) -> None:
    """Make the region's store of `chunks`; whatever is raised, the one that was there is unharmed.

    Raises StoreLocked while the region runs, StoreError when it holds something and `force` is not given,
    StoreUnwritable, and what `chunks` raise.
    """
    lock = _locked(folder)
    try:
        if not force and not await _is_empty(folder, region, deployment):
            raise StoreError(
                f"{folder} holds a region's data already; --force replaces it, and data that no peer has is then lost"
            )
        making = folder / _MAKING
        shutil.rmtree(making, ignore_errors=True)
        try:
            store = open_sqlite(making, region=region, deployment=deployment)
            try:
                await store.fill(chunks)
            finally:
                await store.close()  # which copies the log into the database
            _put_in_place(making / DATABASE_FILE, folder / DATABASE_FILE)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    finally:
        lock.release()


def _locked(folder: Path) -> RegionLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return RegionLock.acquire(folder)
    except OSError as error:
        raise StoreUnwritable(f"{folder} cannot be written: {error.strerror}") from None


async def _is_empty(folder: Path, region: str, deployment: str) -> bool:
    if not (folder / DATABASE_FILE).exists():
        return True
    try:
        store = open_sqlite(folder, region=region, deployment=deployment, read_only=True)
    except AtollError:
        return False  # another's, or damaged: not ours to replace unasked
    try:
        found = await store.statistics()
        return not (await store.positions() or any(found.documents.values()))
    finally:
        await store.close()


def _put_in_place(made: Path, database: Path) -> None:
    if Path(f"{made}-wal").exists():
        raise StoreError(f"{made} was not closed cleanly")
    # A log that is left would be read as the new database's.
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{database}{suffix}")
    os.replace(made, database)
    sync(database)
    sync(database.parent)
