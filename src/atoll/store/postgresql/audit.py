"""Conflict records, parked changes and remembered answers in a region's PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.store.port import AuditFilter, AuditRow, Parked
from atoll.store.postgresql.database import Database
from atoll.store.postgresql.sql import Bound, given_all, kept
from atoll.store.queries import (
    AUDIT_COLUMNS,
    FORGOTTEN_AT_ONCE,
    NEWEST_FIRST,
    PARKED_COLUMNS,
    audit_terms,
    where,
)

_FORGET = """
WITH gone AS (DELETE FROM _audit WHERE id IN
    (SELECT id FROM _audit WHERE status <> 'manual' AND stamp_ms < $1 ORDER BY stamp_ms, id LIMIT $2) RETURNING 1)
SELECT count(*) FROM gone
"""
_FORGET_ANSWERS = """
WITH gone AS (DELETE FROM _remembered WHERE key IN
    (SELECT key FROM _remembered WHERE at_ms < $1 ORDER BY at_ms LIMIT $2) RETURNING 1)
SELECT count(*) FROM gone
"""


class PostgresAudit:
    """The port `Audit`."""

    database: Database

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        bound = Bound()
        terms = audit_terms(bound, wanted, after)
        sql = f"SELECT {AUDIT_COLUMNS} FROM _audit{where(terms)} {NEWEST_FIRST}"
        rows = await self.database.rows(f"{sql} LIMIT {bound.place(limit, 'bigint')}", *bound.values)
        return [AuditRow(*given_all(row)) for row in rows]

    async def conflict(self, id: str) -> AuditRow | None:
        rows = await self.database.rows(f"SELECT {AUDIT_COLUMNS} FROM _audit WHERE id = $1", kept(id))
        return AuditRow(*given_all(rows[0])) if rows else None

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = " WHERE (origin, seq, change) > ($2, $3, $4)" if after is not None else ""
        sql = f"SELECT {PARKED_COLUMNS} FROM _parked{past} ORDER BY origin, seq, change LIMIT $1"
        return [Parked(*given_all(row)) for row in await self.database.rows(sql, limit, *(after or ()))]

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        sql = "SELECT key, answer FROM _remembered WHERE key = ANY ($1::text[])"
        rows = await self.database.rows(sql, [kept(key) for key in keys])
        return dict(map(given_all, rows))

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """As in the port, a bounded number of rows a call, so that writers need not wait: call until 0."""
        most = FORGOTTEN_AT_ONCE
        answers = await self._count(_FORGET_ANSWERS, remembered_before_ms, most)
        over = int((await self.database.rows("SELECT count(*) FROM _audit"))[0][0]) - audit_keep
        aged = await self._count(_FORGET, audit_before_ms, most)
        over -= aged
        if over > 0 and aged < most:
            aged += await self._count(_FORGET, (1 << 63) - 1, min(over, most - aged))
        return answers + aged

    async def _count(self, sql: str, before_ms: int, most: int) -> int:
        return int((await self.database.change(sql, before_ms, most))[0][0])
