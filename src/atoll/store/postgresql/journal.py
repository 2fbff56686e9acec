"""The journal of a region in its PostgreSQL database: segments in commit order, each under an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atoll.store.port import JournalExtent
from atoll.store.postgresql.database import Database
from atoll.store.queries import MEASURED_SEGMENTS

_START = """
SELECT min(first.id) FROM unnest($1::text[], $2::bigint[]) AS wanted (origin, seq) CROSS JOIN LATERAL (
    SELECT id FROM _journal WHERE origin = wanted.origin AND last_seq > wanted.seq ORDER BY last_seq LIMIT 1
) AS first
"""
_EXTENT = """
WITH bounds AS (SELECT coalesce(min(id), tail + 1) AS first, tail FROM _journal
    RIGHT JOIN (SELECT journal_tail AS tail FROM _region) AS region ON true GROUP BY tail)
SELECT first - 1, tail, coalesce((
    SELECT sum(octet_length(body)) * (tail - first + 1) / count(*) FROM _journal WHERE id IN (
        SELECT generate_series(first, tail, greatest(1, (tail - first + $1) / $1)))
), 0)::bigint FROM bounds
"""


class PostgresJournal:
    """The bounds of the port `Journal`."""

    database: Database

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        # One origin's segments have rising ids, so its first one past the vector bounds them all.
        wanted = sorted(set(origins))
        # First: what comes after it may be missed by the search, and must not be.
        tail = await self.journal_tail()
        rows = await self.database.rows(_START, wanted, [vector.get(origin, 0) for origin in wanted])
        return int(tail if rows[0][0] is None else rows[0][0] - 1)

    async def journal_tail(self) -> int:
        return int((await self.database.rows("SELECT journal_tail FROM _region"))[0][0])

    async def journal_extent(self) -> JournalExtent:
        return JournalExtent(*(await self.database.rows(_EXTENT, MEASURED_SEGMENTS))[0])
