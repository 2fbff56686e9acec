from __future__ import annotations

import pytest
from tests.unit.store.conformance import SharedStoreConformance, StoreConformance, commit, segments

from atoll.errors import SerializationConflict
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Store, Wanted


class MemoryHarness:
    def __init__(self) -> None:
        self.tables = MemoryTables()

    def open(self) -> Store:
        return MemoryStore(self.tables)

    async def refuse_writes(self, store: Store) -> None:
        self.tables.refusal = "the disk is full"

    async def accept_writes(self, store: Store) -> None:
        self.tables.refusal = ""


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()

    @pytest.fixture
    def other(self) -> MemoryHarness:
        return MemoryHarness()


class TestSharedMemory(SharedStoreConformance):
    @pytest.fixture
    async def nodes(self) -> tuple[Store, Store]:
        tables = MemoryTables()
        tables.open_collections(["note"])
        return MemoryStore(tables), MemoryStore(tables)


async def test_of_two_nodes_one_has_the_turn() -> None:
    tables = MemoryTables()
    one, other = MemoryStore(tables), MemoryStore(tables)
    async with one.begin(Wanted()) as transaction:
        await commit(other, segments(("tokyo", 1, 1)))
        with pytest.raises(SerializationConflict):
            await transaction.commit(segments(("tokyo", 1, 2)))
    assert await one.positions() == {"tokyo": 1}
