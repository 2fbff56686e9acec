"""A file system for SQLite whose writes and fsyncs fail when told to."""

from __future__ import annotations

import itertools
from typing import Any

import apsw

_numbers = itertools.count()


class FaultyDisk(apsw.VFS):
    """Registered under `vfs_name` while it lives; `full` concerns the write-ahead log, where commits go."""

    def __init__(self) -> None:
        self.vfs_name = f"faulty-{next(_numbers)}"
        self.full = False
        self.failing_fsync = False
        self.failing_fsync_of_database = False
        self.syncs = 0
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        self.is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self.is_log and self.disk.full:
            raise apsw.FullError("no space left")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.disk.syncs += 1
        if self.disk.failing_fsync if self.is_log else self.disk.failing_fsync_of_database:
            error = apsw.IOError("fsync failed")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise error
        super().xSync(flags)
