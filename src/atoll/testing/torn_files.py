"""Real SQLite on files whose unsynced writes are lost or torn when the power goes out.

A file system for SQLite (a VFS over the real one) remembers what each write replaced until the file is synced.
A crash takes the files back to what was synced. Then it lets some of the other writes through, the last of them in
part: the first ones, or any.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import apsw

from atoll.causality.types import Generation
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import AuditRow, Commit, Row, Store, Wanted
from atoll.store.queries import PageQuery
from atoll.store.sqlite.database import open_database
from atoll.store.sqlite.store import SqliteStore
from atoll.store.sqlite.transaction import FIRST_GENERATION

P = ParamSpec("P")
T = TypeVar("T")

_numbers = itertools.count()
_MEMORY = Path("/dev/shm")
"""Only for speed."""


class PowerOut(apsw.IOError):
    """The machine stopped inside a write or a sync."""


class _Write(NamedTuple):
    offset: int
    before: bytes
    """What was there; shorter than `data` where the file grew."""
    data: bytes


class TornFiles(apsw.VFS):
    """The file system of one region. `die_in` counts down writes and syncs to the one that never ends."""

    def __init__(self) -> None:
        self.vfs_name = f"torn-{next(_numbers)}"
        self.unsynced: dict[str, list[_Write]] = {}
        self.die_in: int | None = None
        self.dead = False
        self.closing = False
        """What a closing connection would still write never comes to the disk."""
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def step(self) -> bool:
        """Count one write or sync; False when it is to be left out. Raises PowerOut at the last one and after it."""
        if self.closing:
            return False
        if self.die_in is not None and not self.dead:
            self.die_in -= 1
            self.dead = self.die_in <= 0
        if self.dead:
            raise PowerOut("the power went out")
        return True

    def surviving(self, path: Path, random: Random) -> bytes | None:
        """What a crash at this moment leaves of a file; None where there is none."""
        if not path.exists():
            return None
        image = bytearray(path.read_bytes())
        writes = self.unsynced.get(path.name, [])
        for write in reversed(writes):
            image[write.offset : write.offset + len(write.data)] = write.before
        if random.random() < 0.3:
            kept = [write for write in writes if random.random() < 0.5]
        else:
            kept = writes[: random.randint(0, len(writes))]
        for number, write in enumerate(kept):
            data = write.data
            if number == len(kept) - 1:
                data = data[: random.randint(0, len(data))]
            if len(image) < write.offset:
                image.extend(bytes(write.offset - len(image)))
            image[write.offset : write.offset + len(data)] = data
        return bytes(image)


class _File(apsw.VFSFile):
    def __init__(self, files: TornFiles, name: Any, flags: list[int]) -> None:
        self._files = files
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        held = max(0, min(len(data), self.xFileSize() - offset))
        before = super().xRead(held, offset) if held else b""
        self._files.unsynced.setdefault(self._name, []).append(_Write(offset, before, bytes(data)))
        if self._files.step():
            super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._files.step():
            self._files.unsynced.pop(self._name, None)

    def xTruncate(self, size: int) -> None:
        if self._files.step():
            super().xTruncate(size)
            self._files.unsynced.pop(self._name, None)


class _OfOneThread(SqliteStore):
    """Searches through the connection that it reads from."""

    async def page_at(
        self, asked: PageQuery, *, searching: bool = False
    ) -> tuple[list[Sequence[Any]], Mapping[str, int]]:
        return await super().page_at(asked)


def _from(
    method: Callable[Concatenate[SqliteStore, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SqliteTables, P], T]:
    def call(tables: SqliteTables, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _at_once(method(tables.sqlite, *args, **kwargs))

    return call


class SqliteTables(MemoryTables):
    """What `MemoryTables` offers to one node, of a SQLite database: an embedded store never waits."""

    def __init__(self, sqlite: SqliteStore) -> None:
        super().__init__()
        self.sqlite = sqlite

    open_collections = _from(SqliteStore.open_collections)
    get = _from(SqliteStore.get)
    read = _from(SqliteStore.read)
    scan = _from(SqliteStore.scan)
    scan_all = _from(SqliteStore.scan_all)
    positions = _from(SqliteStore.positions)
    clock = _from(SqliteStore.clock)
    journal = _from(SqliteStore.journal)
    journal_start = _from(SqliteStore.journal_start)
    segment = _from(SqliteStore.segment)
    journal_tail = _from(SqliteStore.journal_tail)
    journal_extent = _from(SqliteStore.journal_extent)
    truncate = _from(SqliteStore.truncate)
    conflicts = _from(SqliteStore.conflicts)
    conflict = _from(SqliteStore.conflict)
    parked = _from(SqliteStore.parked)
    remembered = _from(SqliteStore.remembered)
    forget = _from(SqliteStore.forget)
    state = _from(SqliteStore.state)
    states = _from(SqliteStore.states)
    schemas = _from(SqliteStore.schemas)
    counter = _from(SqliteStore.counter)
    raise_counter = _from(SqliteStore.raise_counter)
    advance_counter = _from(SqliteStore.advance_counter)
    take_up = _from(SqliteStore.take_up)
    statistics = _from(SqliteStore.statistics)

    @property
    def refusal(self) -> str:
        return self.sqlite.refusal

    @refusal.setter
    def refusal(self, reason: str) -> None:
        self.sqlite.connections.refusal = reason

    def load(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        return {key: Row(value, meta) for key, value, meta, _ in self.sqlite.load(collection, keys)}

    def lease(self, holder: object, run: int, names: Sequence[str], for_s: float) -> dict[str, Generation]:
        return dict(_at_once(self.sqlite.lease(names, for_s)))

    def load_states(self, wanted: Wanted) -> dict[tuple[str, str], bytes]:
        return self.sqlite.load_states(wanted)

    def generation(self, lease: str) -> Generation:
        return FIRST_GENERATION

    def open_records(self, collection: str, key: str) -> list[AuditRow]:
        return self.sqlite.open_records(collection, [key])

    def commit(self, commit: Commit) -> None:
        self.sqlite.commit(commit, {})
        if self.sqlite.connections.log_must_be_copied:
            self.sqlite.connections.copy_rest_of_log()
        self.commits += 1


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not suspend."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("an embedded store waited for something")


class TornMedium:
    """Where a simulated region keeps its database."""

    def __init__(self, region: str) -> None:
        folder = tempfile.mkdtemp(prefix=f"atoll-{region}-", dir=_MEMORY if _MEMORY.is_dir() else None)
        self._folder = Path(folder)
        self._region = region
        self._files = TornFiles()
        self.store: SqliteTables = self._open()

    @property
    def dead(self) -> bool:
        """Whether the power went out, until `recover`."""
        return self._files.dead

    def die_within(self, steps: int) -> None:
        """Let the power go out at one of the next writes and syncs."""
        self._files.die_in = steps

    def spare(self) -> None:
        """Not this time."""
        self._files.die_in = None

    def recover(self, random: Random) -> None:
        """Open what a crash leaves."""
        database = self.store.sqlite.database
        paths = [database, Path(f"{database}-wal")]
        images = {path: self._files.surviving(path, random) for path in paths}
        self._put_away()
        for path, image in images.items():
            if image is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(image)
        self.store = self._open()

    def checkpoint(self) -> None:
        """Copy the log, as housekeeping does."""
        self.store.sqlite.connections.copy_log()

    def pretend(self, sync: bool) -> None:
        """SQLite says itself when it syncs."""

    def lose(self) -> None:
        """A new, empty disk."""
        self._put_away()
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self.store = self._open()

    def opened(self) -> Store:
        """The database, for whoever makes a copy of it or fills it."""
        return self.store.sqlite

    def copied(self) -> MemoryTables:
        raise NotImplementedError("an embedded store has no standby")

    def fail_over(self, standby: MemoryTables, history: str) -> None:
        raise NotImplementedError("an embedded store has no standby")

    def close(self) -> None:
        """End the simulation: nothing is kept."""
        self._put_away()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _put_away(self) -> None:
        self._files.closing = True
        with contextlib.suppress(apsw.Error):
            _at_once(self.store.sqlite.close())

    def _open(self) -> SqliteTables:
        self._files.dead, self._files.closing, self._files.die_in = False, False, None
        self._files.unsynced.clear()
        opened = open_database(
            self._folder,
            region=self._region,
            deployment="simulation",
            read_only=False,
            vfs=self._files.vfs_name,
        )
        return SqliteTables(_OfOneThread(opened))
