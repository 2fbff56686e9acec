from __future__ import annotations

import pytest
from tests.unit.store.conformance import StoreConformance

from atoll.store.memory import MemoryStore
from atoll.store.port import Store


class MemoryHarness:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self) -> Store:
        self.store.reopen()
        return self.store

    def refuse_writes(self, store: Store) -> None:
        self.store.refusal = "the disk is full"

    def accept_writes(self, store: Store) -> None:
        self.store.refusal = ""


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()
