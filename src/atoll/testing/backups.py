"""Backups of simulated regions: the real archive, in memory instead of in a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from atoll.backup.archive import ArchiveReader, Header
from atoll.backup.backup import restored_chunks, write_archive
from atoll.testing.disk import SimulatedDisk

_PATH = Path("simulated.atoll")
"""Messages name it."""


async def back_up(disk: SimulatedDisk, made_ms: int) -> bytes:
    """An archive of what lies on the disk; commits may go on meanwhile."""
    file = BytesIO()
    await write_archive(disk.medium.opened(), file, Header("simulation", disk.region, made_ms, "simulated"))
    return file.getvalue()


async def restore(disk: SimulatedDisk, archive: bytes, now_ms: int) -> None:
    """Let the archive's contents take the place of all that is on the disk. No node may run on it."""
    disk.empty()
    await disk.medium.opened().fill(restored_chunks(ArchiveReader(BytesIO(archive), _PATH), now_ms, ()))
    disk.tell_replaced("restored")
