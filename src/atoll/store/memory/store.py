"""A store in memory, for the simulator and for tests: the same contract, as durable as the object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from atoll.errors import SerializationConflict, StoreError
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Chunk, Commit, Shape, Wanted


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


P = ParamSpec("P")
T = TypeVar("T")
_Asked: TypeAlias = Callable[Concatenate["TablesStore", P], Coroutine[Any, Any, T]]


def _reads(method: Callable[Concatenate[MemoryTables, P], T]) -> _Asked[P, T]:
    async def read(store: TablesStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store.call(False, method, *args, **kwargs)

    return read


def _writes(method: Callable[Concatenate[MemoryTables, P], T]) -> _Asked[P, T]:
    async def write(store: TablesStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store.call(True, method, *args, **kwargs)

    return write


class TablesStore:
    """`Store` over some `MemoryTables`: all methods of the ports that only ask the tables for something.

    Each is one `call` with the method of the tables that has its name, and takes and returns what that does.
    """

    warning = ""
    lessee: object
    """Who holds this node's leases."""
    run: int
    """As of `MemoryTables.lease`."""

    async def call(
        self,
        writing: bool,
        method: Callable[Concatenate[MemoryTables, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Perform a method of the tables, by its name. `writing` tells whether it changes them."""
        raise NotImplementedError

    open_collections = _writes(MemoryTables.open_collections)
    get = _reads(MemoryTables.get)
    read = _reads(MemoryTables.read)
    scan = _reads(MemoryTables.scan)
    scan_all = _reads(MemoryTables.scan_all)

    positions = _reads(MemoryTables.positions)
    clock = _reads(MemoryTables.clock)
    journal = _reads(MemoryTables.journal)
    journal_start = _reads(MemoryTables.journal_start)
    segment = _reads(MemoryTables.segment)
    journal_tail = _reads(MemoryTables.journal_tail)
    journal_extent = _reads(MemoryTables.journal_extent)
    truncate = _writes(MemoryTables.truncate)

    conflicts = _reads(MemoryTables.conflicts)
    conflict = _reads(MemoryTables.conflict)
    parked = _reads(MemoryTables.parked)
    remembered = _reads(MemoryTables.remembered)
    forget = _writes(MemoryTables.forget)

    state = _reads(MemoryTables.state)
    states = _reads(MemoryTables.states)
    schemas = _reads(MemoryTables.schemas)
    counter = _reads(MemoryTables.counter)
    raise_counter = _writes(MemoryTables.raise_counter)
    advance_counter = _writes(MemoryTables.advance_counter)

    take_up = _writes(MemoryTables.take_up)
    statistics = _reads(MemoryTables.statistics)

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, int]:
        return await self.call(True, MemoryTables.lease, self.lessee, self.run, names, for_s)

    async def give_back(self, names: Sequence[str]) -> None:
        await self.call(True, MemoryTables.give_back, self.lessee, names)

    async def holders(self) -> Mapping[str, str]:
        return await self.call(False, MemoryTables.holders, asyncio.get_running_loop().time())

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """Nothing: there are no SQL tools here, and every scan is in memory."""

    async def contents(self) -> AsyncGenerator[Chunk, None]:
        for chunk in await self.call(False, MemoryTables.contents):
            yield chunk

    async def fill(self, chunks: AsyncIterable[Chunk]) -> None:
        await self.call(True, MemoryTables.fill, [chunk async for chunk in chunks])


class MemoryStore(TablesStore):
    """At once; several of them over the same tables are nodes of one region."""

    run = 1

    def __init__(self, tables: MemoryTables | None = None) -> None:
        self.tables = tables or MemoryTables()
        self.tables.nodes += 1
        self.holder = f"node {self.tables.nodes}"
        self.lessee = self
        self._seen = self.tables.history
        self._closed = False

    async def call(
        self,
        writing: bool,
        method: Callable[Concatenate[MemoryTables, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        result: T = getattr(self._open(), method.__name__)(*args, **kwargs)
        return result

    def begin(self, wanted: Wanted) -> MemoryTransaction:
        return MemoryTransaction(self._open(), wanted, self)

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
