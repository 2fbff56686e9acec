"""Conflict records and parked changes in a region's PostgreSQL database."""

from __future__ import annotations

from atoll.store.port import AuditFilter, AuditRow, Parked
from atoll.store.postgresql import sql
from atoll.store.postgresql.database import Database
from atoll.store.postgresql.sql import audit_row, given, kept

_FORGET = """
WITH gone AS (DELETE FROM _audit WHERE id IN
    (SELECT id FROM _audit WHERE status <> 'manual' AND stamp_ms < $1 ORDER BY stamp_ms, id LIMIT $2) RETURNING 1)
SELECT count(*) FROM gone
"""


class Audit:
    """What the port says of both."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> list[AuditRow]:
        bound = sql.Bound()
        asked = (
            ("collection", wanted.collection),
            ("key", None if wanted.key is None else kept(wanted.key)),
            ("kind", wanted.kind),
            ("status", wanted.status),
        )
        terms = [f"{column} = {bound.place(value, 'text')}" for column, value in asked if value is not None]
        if wanted.origin is not None:
            terms.append(f"{bound.place(wanted.origin, 'text')} IN (losing_origin, winning_origin)")
        if wanted.since_ms is not None:
            terms.append(f"stamp_ms >= {bound.place(wanted.since_ms, 'bigint')}")
        if wanted.until_ms is not None:
            terms.append(f"stamp_ms <= {bound.place(wanted.until_ms, 'bigint')}")
        if after is not None:
            terms.append(
                f"(stamp_ms, id) < ({bound.place(after[0], 'bigint')}, {bound.place(after[1], 'text')})"
            )
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        rows = await self._database.rows(
            f"SELECT {sql.AUDIT_COLUMNS} FROM _audit{where} "
            f"ORDER BY stamp_ms DESC, id DESC LIMIT {bound.place(limit, 'bigint')}",
            *bound.values,
        )
        return [audit_row(row) for row in rows]

    async def conflict(self, id: str) -> AuditRow | None:
        rows = await self._database.rows(f"SELECT {sql.AUDIT_COLUMNS} FROM _audit WHERE id = $1", kept(id))
        return audit_row(rows[0]) if rows else None

    async def parked(self, limit: int = 100, *, after: tuple[str, int, int] | None = None) -> list[Parked]:
        past = "WHERE (origin, seq, change) > ($2, $3, $4)" if after is not None else ""
        rows = await self._database.rows(
            f"SELECT origin, seq, change, cause, reason, body FROM _parked {past} "
            "ORDER BY origin, seq, change LIMIT $1",
            limit,
            *(after or ()),
        )
        return [Parked(*row)._replace(reason=given(row["reason"])) for row in rows]

    async def forget(self, *, before_ms: int, keep: int, most: int) -> int:
        """Remove at most so many of the oldest records, and no manual ones; how many those were."""
        over = int((await self._database.rows("SELECT count(*) FROM _audit"))[0][0]) - keep
        aged = await self._delete(before_ms, most)
        over -= aged
        if over > 0 and aged < most:
            aged += await self._delete((1 << 63) - 1, min(over, most - aged))
        return aged

    async def _delete(self, before_ms: int, most: int) -> int:
        return int((await self._database.change(_FORGET, before_ms, most))[0][0])
