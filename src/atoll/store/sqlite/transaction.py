"""A turn of a region's SQLite store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atoll.store.port import AuditRow, Commit, Row, Wanted

if TYPE_CHECKING:
    from atoll.store.sqlite.store import SqliteStore

FIRST_GENERATION = 1
"""Of every lease: no other node can ever hold one."""


class SqliteTransaction:
    """A turn of the only node there is: nobody can come in between."""

    __slots__ = (
        "_rowids",
        "_store",
        "_wanted",
        "audit",
        "clock",
        "generations",
        "open_records",
        "positions",
        "remembered",
        "rows",
        "schemas",
        "states",
    )
    history = ""

    def __init__(self, store: SqliteStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted

    async def __aenter__(self) -> SqliteTransaction:
        store, wanted = self._store, self._wanted
        self.positions: Mapping[str, int] = await store.positions()
        self.clock = await store.clock()
        self.schemas: Mapping[str, str] = await store.schemas()
        self.rows: dict[tuple[str, str], Row] = {}
        self._rowids: dict[tuple[str, str], int] = {}
        for collection, keys in wanted.documents.items():
            for key, value, meta, rowid in store.load(collection, keys):
                self.rows[collection, key] = Row(value, meta)
                self._rowids[collection, key] = rowid
        self.remembered = store.answers(wanted.remembered) if wanted.remembered else {}
        self.audit = {row.id: row for row in store.audit.records(wanted.audit)} if wanted.audit else {}
        self.states = store.load_states(wanted) if wanted.states or wanted.spaces else {}
        self.generations: Mapping[str, int] = dict.fromkeys(wanted.fences, FIRST_GENERATION)
        self.open_records: dict[tuple[str, str], list[AuditRow]] = {}
        for collection, keys in wanted.open_records.items():
            for row in store.audit.open_records(collection, keys):
                self.open_records.setdefault((collection, row.key), []).append(row)
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing is held between two commits."""

    async def commit(self, commit: Commit) -> None:
        self._store.commit(commit, self._rowids)
