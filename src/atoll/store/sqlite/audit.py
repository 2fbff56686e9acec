"""Conflict records, parked changes and remembered answers in a region's SQLite database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from atoll.store.port import AuditFilter, AuditRow, Parked
from atoll.store.queries import (
    FORGOTTEN_AT_ONCE,
    NEWEST_FIRST,
    PARKED_COLUMNS,
    Bound,
    audit_terms,
    where,
)
from atoll.store.sqlite.connections import Connections
from atoll.store.sqlite.sql import SELECT_AUDIT, audit_row

_ANY_RECORD = "SELECT 1 FROM audit WHERE collection = ? LIMIT 1"
_OPEN_RECORDS = f"{SELECT_AUDIT} WHERE collection = ? AND key = ? AND status <> 'resolved' {NEWEST_FIRST}"
_FORGET = (
    "DELETE FROM audit WHERE rowid IN (SELECT rowid FROM audit "
    "WHERE status <> 'manual' AND stamp_ms < ? ORDER BY stamp_ms, id LIMIT ?)"
)
_FORGET_ANSWERS = (
    "DELETE FROM remembered WHERE rowid IN (SELECT rowid FROM remembered WHERE at_ms < ? LIMIT ?)"
)


class SqliteAudit:
    """The port `Audit`, and what a transaction loads of it."""

    connections: Connections

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        bound = Bound()
        terms = audit_terms(bound, wanted, after)
        sql = f"{SELECT_AUDIT}{where(terms)} {NEWEST_FIRST} LIMIT {bound.place(limit, 'bigint')}"
        return [audit_row(row) for row in self.connections.rows(sql, bound.values)]

    async def conflict(self, id: str) -> AuditRow | None:
        return next(self.records([id]), None)

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = " WHERE (origin, seq, change) > (?, ?, ?)" if after is not None else ""
        sql = f"SELECT {PARKED_COLUMNS} FROM parked{past} ORDER BY origin, seq, change LIMIT ?"
        return [Parked(*row) for row in self.connections.rows(sql, (*(after or ()), limit))]

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self.answers(keys)

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """As in the port, a bounded number of rows a call, so that writers need not wait: call until 0."""
        most = FORGOTTEN_AT_ONCE
        with self.connections as writer:
            before = writer.total_changes()
            writer.execute(_FORGET_ANSWERS, (remembered_before_ms, most))
            kept = int(writer.execute("SELECT count(*) FROM audit").get)
            aged = writer.total_changes()
            writer.execute(_FORGET, (audit_before_ms, most))
            aged = writer.total_changes() - aged
            over = kept - aged - audit_keep
            if over > 0 and aged < most:
                writer.execute(_FORGET, ((1 << 63) - 1, min(over, most - aged)))
            return writer.total_changes() - before

    def answers(self, keys: Sequence[str]) -> dict[str, bytes]:
        return dict(self.connections.among("SELECT key, answer FROM remembered WHERE key IN ", keys))

    def records(self, ids: Sequence[str]) -> Iterator[AuditRow]:
        return map(audit_row, self.connections.among(f"{SELECT_AUDIT} WHERE id IN ", ids))

    def open_records(self, collection: str, keys: Sequence[str]) -> list[AuditRow]:
        """Of some documents, newest first."""
        if not self.connections.load(_ANY_RECORD, (collection,)):
            return []  # nearly always, and then each key need not be looked up
        found = [row for key in keys for row in self.connections.load(_OPEN_RECORDS, (collection, key))]
        return [audit_row(row) for row in found]
