"""A store in memory, for the simulator and for tests: the same contract, as durable as the object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from atoll.causality.types import Generation
from atoll.errors import StoreError
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Chunk, Commit, Shape, Transaction, Wanted
from atoll.store.refusals import lost_to_another_node, too_much


class MemoryTransaction(Transaction):
    """Of whoever commits first: the others' `commit` raises SerializationConflict."""

    __slots__ = ("_commits", "_node", "_tables", "_wanted")

    def __init__(self, tables: MemoryTables, wanted: Wanted, node: object = None) -> None:
        self._tables = tables
        self._wanted = wanted
        self._node = node

    async def __aenter__(self) -> MemoryTransaction:
        tables, wanted = self._tables, self._wanted
        self._commits = tables.commits
        self.history = tables.history
        self.positions = tables.positions()
        self.clock = tables.clock()
        self.rows = {
            (collection, key): row
            for collection, keys in wanted.documents.items()
            for key, row in tables.load(collection, keys).items()
        }
        if (
            wanted.most_bytes is not None
            and sum(r.size_bytes for r in self.rows.values()) > wanted.most_bytes
        ):
            raise too_much(wanted.most_bytes)
        self.remembered = tables.remembered(wanted.remembered) if wanted.remembered else {}
        self.schemas = tables.schemas()
        self.states = tables.load_states(wanted) if wanted.states else {}
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
            raise lost_to_another_node()


P = ParamSpec("P")
T = TypeVar("T")
_Asked: TypeAlias = Callable[Concatenate["TablesStore", P], Coroutine[Any, Any, T]]


def _asks(method: Callable[Concatenate[MemoryTables, P], T], *, writing: bool = False) -> _Asked[P, T]:
    def ask(store: TablesStore, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return store.call(writing, method, *args, **kwargs)

    return ask


def _changes(method: Callable[Concatenate[MemoryTables, P], T]) -> _Asked[P, T]:
    return _asks(method, writing=True)


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

    open_collections = _changes(MemoryTables.open_collections)
    get = _asks(MemoryTables.get)
    read = _asks(MemoryTables.read)
    scan = _asks(MemoryTables.scan)
    scan_all = _asks(MemoryTables.scan_all)

    positions = _asks(MemoryTables.positions)
    clock = _asks(MemoryTables.clock)
    journal = _asks(MemoryTables.journal)
    journal_start = _asks(MemoryTables.journal_start)
    segment = _asks(MemoryTables.segment)
    journal_tail = _asks(MemoryTables.journal_tail)
    journal_extent = _asks(MemoryTables.journal_extent)
    truncate = _changes(MemoryTables.truncate)

    conflicts = _asks(MemoryTables.conflicts)
    conflict = _asks(MemoryTables.conflict)
    parked = _asks(MemoryTables.parked)
    remembered = _asks(MemoryTables.remembered)
    forget = _changes(MemoryTables.forget)

    state = _asks(MemoryTables.state)
    states = _asks(MemoryTables.states)
    schemas = _asks(MemoryTables.schemas)
    counter = _asks(MemoryTables.counter)
    raise_counter = _changes(MemoryTables.raise_counter)
    advance_counter = _changes(MemoryTables.advance_counter)

    take_up = _changes(MemoryTables.take_up)
    statistics = _asks(MemoryTables.statistics)

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, Generation]:
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
        tables = self.tables
        if tables.history != self._seen:
            self._seen = tables.history
            tables.tell_history(self)
        return tables
