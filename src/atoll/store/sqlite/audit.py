"""Conflict records and parked changes in a region's SQLite database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from atoll.store.port import AuditFilter, AuditRow, Parked
from atoll.store.sqlite.connections import Connections
from atoll.store.sqlite.sql import SELECT_AUDIT, audit_row

_ANY_RECORD = "SELECT 1 FROM audit WHERE collection = ? LIMIT 1"
_OPEN_RECORDS = (
    f"{SELECT_AUDIT} WHERE collection = ? AND key = ? AND status <> 'resolved' "
    "ORDER BY stamp_ms DESC, id DESC"
)
_FORGET = (
    "DELETE FROM audit WHERE rowid IN (SELECT rowid FROM audit "
    "WHERE status <> 'manual' AND stamp_ms < ? ORDER BY stamp_ms, id LIMIT ?)"
)


class Audit:
    """What the port says of both."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        asked: list[tuple[str, tuple[Any, ...]]] = [
            (f"{column} = ?", (value,))
            for column, value in (
                ("collection", wanted.collection),
                ("key", wanted.key),
                ("kind", wanted.kind),
                ("status", wanted.status),
            )
            if value is not None
        ]
        if wanted.origin is not None:
            asked.append(("? IN (losing_origin, winning_origin)", (wanted.origin,)))
        if wanted.since_ms is not None:
            asked.append(("stamp_ms >= ?", (wanted.since_ms,)))
        if wanted.until_ms is not None:
            asked.append(("stamp_ms <= ?", (wanted.until_ms,)))
        if after is not None:
            asked.append(("(stamp_ms, id) < (?, ?)", after))
        where = f" WHERE {' AND '.join(term for term, _ in asked)}" if asked else ""
        bindings = [value for _, bound in asked for value in bound]
        sql = f"{SELECT_AUDIT}{where} ORDER BY stamp_ms DESC, id DESC LIMIT ?"
        return [audit_row(row) for row in self._connections.rows(sql, [*bindings, limit])]

    def conflict(self, id: str) -> AuditRow | None:
        return next(self.records([id]), None)

    def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = ' WHERE (origin, seq, "index") > (?, ?, ?)' if after is not None else ""
        sql = f'SELECT origin, seq, "index", cause, reason, body FROM parked{past}'
        sql += ' ORDER BY origin, seq, "index" LIMIT ?'
        return [Parked._make(row) for row in self._connections.rows(sql, (*(after or ()), limit))]

    def records(self, ids: Sequence[str]) -> Iterator[AuditRow]:
        """For a turn: as its writer sees them."""
        return map(audit_row, self._connections.among(f"{SELECT_AUDIT} WHERE id IN ", ids))

    def open_records(self, collection: str, keys: Sequence[str]) -> list[AuditRow]:
        """For a turn: the open records of some documents, newest first."""
        if not self._connections.load(_ANY_RECORD, (collection,)):
            return []  # nearly always, and then each key need not be looked up
        found = [row for key in keys for row in self._connections.load(_OPEN_RECORDS, (collection, key))]
        return [audit_row(row) for row in found]

    def forget(self, writer: apsw.Connection, *, before_ms: int, keep: int, most: int) -> None:
        """Remove at most so many of the oldest records, and no manual ones, in the writer's transaction."""
        kept = int(writer.execute("SELECT count(*) FROM audit").get)
        aged = writer.total_changes()
        writer.execute(_FORGET, (before_ms, most))
        aged = writer.total_changes() - aged
        over = kept - aged - keep
        if over > 0 and aged < most:
            writer.execute(_FORGET, ((1 << 63) - 1, min(over, most - aged)))
