"""A transaction of a region's SQLite store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from atoll.causality.types import Generation
from atoll.schema.bounds import BESIDE_BYTES
from atoll.store.port import AuditRow, Commit, Row, Transaction, Wanted
from atoll.store.refusals import too_much

if TYPE_CHECKING:
    from atoll.store.sqlite.store import SqliteStore

FIRST_GENERATION = Generation(1)
"""Of every lease: no other node can ever hold one."""


class SqliteTransaction(Transaction):
    """Of the only node there is: nobody can come in between."""

    __slots__ = ("_much", "_rowids", "_store", "_wanted")

    def __init__(self, store: SqliteStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted

    async def __aenter__(self) -> SqliteTransaction:
        store, wanted = self._store, self._wanted
        self.history = ""
        self.positions, self.clock, self.schemas = store.head()
        self.rows = rows = dict[tuple[str, str], Row]()
        self._rowids: dict[tuple[str, str], int] = {}
        loading = self._load(rows)
        self._much = next(loading, False)
        if self._much:
            await store.connections.work_beside(lambda: list(loading))
        self.remembered = store.answers(wanted.remembered) if wanted.remembered else {}
        self.audit = {row.id: row for row in store.records(wanted.audit)} if wanted.audit else {}
        self.states = store.load_states(wanted) if wanted.states else {}
        self.generations = dict.fromkeys(wanted.fences, FIRST_GENERATION)
        open_records: dict[tuple[str, str], list[AuditRow]] = {}
        for collection, keys in wanted.open_records.items():
            for row in store.open_records(collection, keys):
                open_records.setdefault((collection, row.key), []).append(row)
        self.open_records = open_records
        return self

    def _load(self, rows: dict[tuple[str, str], Row]) -> Iterator[bool]:
        """Find the documents. Pauses once, when it has found much."""
        most_bytes, size_bytes, paused = self._wanted.most_bytes, 0, False
        for collection, keys in self._wanted.documents.items():
            for key, value, meta, rowid in self._store.load(collection, keys):
                address = (collection, key)
                rows[address] = Row(value, meta)
                self._rowids[address] = rowid
                size_bytes += len(meta) + len(value or b"")
                if size_bytes >= BESIDE_BYTES:
                    if most_bytes is not None and size_bytes > most_bytes:
                        raise too_much(most_bytes)
                    if not paused:
                        paused = True
                        yield True

    async def __aexit__(self, *failure: object) -> None:
        """Nothing is held between two commits."""

    async def commit(self, commit: Commit) -> None:
        store = self._store
        if commit.size_bytes < BESIDE_BYTES and not self._much:  # what is replaced takes its time, too
            store.commit(commit, self._rowids)
        else:
            await store.connections.work_beside(lambda: store.commit(commit, self._rowids))
        if store.connections.log_must_be_copied:
            await store.connections.work_beside(store.connections.copy_rest_of_log)
