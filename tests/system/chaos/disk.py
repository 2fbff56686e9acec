"""Disks that run full: a file system of their own where that may be made, a limit on file sizes elsewhere."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x0002_0000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_SIZE = "2g"
_FILE_BYTES = 64 << 10


def private_mounts() -> bool:
    """Give this process and its children mounts of their own, which vanish with them; False where refused.

    To be called in the main thread, before anything else starts threads or processes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return False
    return bool(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0)


class Disk:
    """One region's disk: `fill` makes every write fail at once, `free` ends that."""

    def __init__(self, folder: Path, *, mounts: bool) -> None:
        """`mounts`: on a tmpfs of its own, so that a full disk is one (ENOSPC)."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted = mounts and _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder))
        self._limited: int | None = None

    def fill(self) -> None:
        """Leave no room beyond what is in use."""
        assert self.mounted, "without a file system of its own, limit() is all there is"
        usage = os.statvfs(self.folder)
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        assert _mount("-o", f"remount,size={max(4096, used)}", str(self.folder)), "the disk cannot be filled"

    def limit(self, pid: int, log: Path) -> None:
        """Make a process's writes past a small size fail (EFBIG, which SQLite takes for a failing disk)."""
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        kept = log.stat().st_size + _FILE_BYTES if log.exists() else _FILE_BYTES
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (kept, hard))
        self._limited = pid

    def free(self) -> None:
        """Mend both."""
        if self.mounted:
            assert _mount("-o", f"remount,size={_SIZE}", str(self.folder))
        if self._limited is not None:
            pid, self._limited = self._limited, None
            try:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            except ProcessLookupError:
                pass  # the limit died with its process


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
