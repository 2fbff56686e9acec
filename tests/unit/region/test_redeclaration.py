"""What a region reads of its documents after a restart, on a store that notes what is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from atoll.documents.mutation import Write
from atoll.rollout.redeclare import LOOKED_AFTER_S, fingerprints
from atoll.schema import Collection
from atoll.schema.application import Application, application_of
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Row

from ..virtual_time import in_virtual_time
from .world import World

KEYS = [f"k{number:04}" for number in range(2000)]


class Note(Collection):
    text: str = ""


class Signed(Collection, name="note"):
    text: str = ""
    author: str = ""


BEFORE = application_of(Note, name="world")
AFTER = application_of(Signed, name="world")


class NotingTables(MemoryTables):
    """Its documents that were loaded, and places that were scanned from."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scanned: list[str | None] = []

    def load(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        self.loaded += keys
        return super().load(collection, keys)

    def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, Row]]:
        self.scanned.append(after)
        return super().scan_all(collection, after=after, limit=limit)


def alone(tables: MemoryTables, application: Application) -> World:
    it = World("a", application=application)
    it.stores["a"] = MemoryStore(tables)
    return it


async def filled() -> NotingTables:
    """The store of a region that was written from its first moment on, and ended at once afterwards."""
    tables = NotingTables()
    async with alone(tables, BEFORE) as it:
        for first in range(0, len(KEYS), 100):
            mutations = (it.mutation("note", key, {"text": key}) for key in KEYS[first : first + 100])
            await it["a"].write(Write(tuple(mutations)))
        assert tables.schemas() == fingerprints(BEFORE)
    tables.loaded, tables.scanned = [], []
    return tables


@in_virtual_time
async def test_a_restart_with_equal_declarations_reads_no_document() -> None:
    tables = await filled()
    async with alone(tables, BEFORE):
        await asyncio.sleep(3 * LOOKED_AFTER_S)
    assert (tables.loaded, tables.scanned) == ([], [])


@in_virtual_time
async def test_a_restart_with_another_declaration_goes_over_all_documents_once() -> None:
    tables = await filled()
    async with alone(tables, AFTER):
        await asyncio.sleep(3 * LOOKED_AFTER_S)
    assert tables.loaded == KEYS
    assert tables.schemas() == fingerprints(AFTER)
