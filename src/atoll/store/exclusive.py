"""A folder that is a region's own: one process at a time holds it, and its names are made durable.

It is held by `flock` on `region.lock`, so that this ends with the holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from atoll.errors import StoreLocked

LOCK_FILE = "region.lock"


class RegionLock:
    """The right to write in one folder. The file stays behind on purpose: unlinking it would race."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> RegionLock:
        """Take the lock or raise StoreLocked; OSError where the folder takes no new file."""
        path = folder / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            # Not ours to write; but one that another process holds must still be respected.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                descriptor = os.open(path, os.O_RDONLY)
                _flock(descriptor, folder)
                os.close(descriptor)
            raise
        _flock(descriptor, folder)
        with contextlib.suppress(OSError):  # a full disk must not keep a region from its reads
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process in; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def sync(path: Path) -> None:
    """Make a file durable, or the names of the files in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreLocked(
            f"process {holder} already runs the region in {folder}: stop it, or give this region "
            "another folder (`data` in atoll.toml)",
            pid=int(holder) if holder.isdigit() else None,
            folder=str(folder),
        ) from None
