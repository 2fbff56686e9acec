"""A store in memory, for the simulator and for tests: the same contract, as durable as the object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence

from atoll.errors import (
    SerializationConflict,
    StoreError,
)
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import (
    AuditFilter,
    AuditRow,
    Chunk,
    Commit,
    Condition,
    JournalExtent,
    Numbered,
    Parked,
    Row,
    Segment,
    Shape,
    StoreStatistics,
    Wanted,
)


class MemoryTransaction:
    """Of whoever commits first: the others' `commit` raises SerializationConflict."""

    __slots__ = (
        "_commits",
        "_node",
        "_tables",
        "_wanted",
        "audit",
        "clock",
        "generations",
        "history",
        "open_records",
        "positions",
        "remembered",
        "rows",
        "schemas",
        "states",
    )

    def __init__(self, tables: MemoryTables, wanted: Wanted, node: object = None) -> None:
        self._tables = tables
        self._wanted = wanted
        self._node = node

    async def __aenter__(self) -> MemoryTransaction:
        tables, wanted = self._tables, self._wanted
        self._commits = tables.commits
        self.history = tables.history
        self.positions: Mapping[str, int] = tables.positions()
        self.clock = tables.clock()
        self.rows = {
            (collection, key): row
            for collection, keys in wanted.documents.items()
            for key, row in tables.load(collection, keys).items()
        }
        self.remembered = tables.remembered(wanted.remembered)
        self.schemas = tables.schemas()
        self.states = tables.load_states(wanted) if wanted.states or wanted.spaces else {}
        self.generations = {name: tables.generation(name) for name in wanted.fences}
        self.audit = {id: row for id in wanted.audit if (row := tables.conflict(id)) is not None}
        self.open_records = {
            (collection, key): tables.open_records(collection, key)
            for collection, keys in wanted.open_records.items()
            for key in keys
        }
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing is held."""

    async def commit(self, commit: Commit) -> None:
        self.check()
        self._tables.commit(commit)
        self._tables.tell(self._node)

    def check(self) -> None:
        """Raise SerializationConflict when somebody has committed meanwhile."""
        if self._tables.commits != self._commits:
            raise SerializationConflict(
                "another node of this region has committed since this transaction began"
            )


class MemoryStore:
    """`Store` over `MemoryTables`; several of them over the same are nodes of one region."""

    warning = ""

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.tables.nodes += 1
        self.holder = f"node {self.tables.nodes}"
        self._seen = self.tables.history
        self._closed = False

    async def open_collections(self, names: Iterable[str]) -> None:
        self._open().open_collections(names)

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """Nothing: there are no SQL tools here, and every scan is in memory."""

    def follow(
        self,
        follower: Callable[[Mapping[str, int]], None],
        history_changed: Callable[[str], None] | None = None,
    ) -> None:
        self._open().follow(self, follower, history_changed)

    async def history(self) -> str:
        return self._open().history

    async def history_taken_up(self) -> str:
        return self._open().history_taken_up

    async def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        self._open().take_up(history, counters)

    async def holders(self) -> Mapping[str, str]:
        return self._open().holders(asyncio.get_running_loop().time())

    async def give_back(self, names: Sequence[str]) -> None:
        self._open().give_back(self, names)

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, int]:
        return self._open().lease(self, 1, names, for_s)

    def begin(self, wanted: Wanted) -> MemoryTransaction:
        return MemoryTransaction(self._open(), wanted, self)

    async def get(self, collection: str, key: str) -> Row | None:
        return self._open().get(collection, key)

    async def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        return self._open().read(collection, key)

    async def scan(
        self,
        collection: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        where: Sequence[Condition] = (),
    ) -> list[tuple[str, Row]]:
        return self._open().scan(collection, prefix=prefix, after=after, limit=limit, where=where)

    async def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, Row]]:
        return self._open().scan_all(collection, after=after, limit=limit)

    async def positions(self) -> dict[str, int]:
        return self._open().positions()

    async def clock(self) -> int:
        return self._open().clock()

    async def journal(self, after_id: int, *, limit: int = 64, limit_bytes: int = 4 << 20) -> list[Numbered]:
        return self._open().journal(after_id, limit=limit, limit_bytes=limit_bytes)

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        return self._open().journal_start(vector, origins)

    async def segment(self, origin: str, seq: int) -> Segment | None:
        return self._open().segment(origin, seq)

    async def journal_tail(self) -> int:
        return self._open().journal_tail()

    async def journal_extent(self) -> JournalExtent:
        return self._open().journal_extent()

    async def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        return self._open().truncate(up_to_id, limit=limit)

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self._open().remembered(keys)

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        return self._open().conflicts(wanted, after=after, limit=limit)

    async def conflict(self, id: str) -> AuditRow | None:
        return self._open().conflict(id)

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        return self._open().parked(limit, after=after)

    async def schemas(self) -> dict[str, str]:
        return self._open().schemas()

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        return self._open().forget(
            remembered_before_ms=remembered_before_ms, audit_before_ms=audit_before_ms, audit_keep=audit_keep
        )

    async def state(self, space: str, key: str) -> bytes | None:
        return self._open().state(space, key)

    async def states(
        self, space: str, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        return self._open().states(space, prefix=prefix, after=after, limit=limit)

    async def counter(self, name: str) -> int:
        return self._open().counter(name)

    async def raise_counter(self, name: str, value: int) -> None:
        self._open().raise_counter(name, value)

    async def advance_counter(self, name: str, by: int) -> int:
        return self._open().advance_counter(name, by)

    async def contents(self) -> AsyncGenerator[Chunk, None]:
        for chunk in self._open().contents():
            yield chunk

    async def fill(self, chunks: AsyncIterable[Chunk]) -> None:
        self._open().fill([chunk async for chunk in chunks])

    async def statistics(self) -> StoreStatistics:
        return self._open().statistics()

    async def checkpoint(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        self._closed = True
        self.tables.leave(self)

    def _open(self) -> MemoryTables:
        if self._closed:
            raise StoreError("the store is closed")
        self._seen, seen = self.tables.history, self._seen
        self.tables.look(self, seen)
        return self.tables
