"""The journal of a region in its SQLite database: segments in commit order, each under an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atoll.store.port import JournalExtent
from atoll.store.queries import MEASURED_SEGMENTS
from atoll.store.sqlite.connections import Connections

# One origin's segments have rising ids, so its first one past the vector bounds them all.
_START = "SELECT id FROM journal WHERE origin = ? AND last_seq > ? ORDER BY last_seq LIMIT 1"


class SqliteJournal:
    """The bounds of the port `Journal`."""

    connections: Connections

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        found = (self.connections.rows(_START, (origin, vector.get(origin, 0))) for origin in origins)
        firsts = [id for rows in found for (id,) in rows]
        return min(firsts) - 1 if firsts else await self.journal_tail()

    async def journal_tail(self) -> int:
        return int(self.connections.rows("SELECT coalesce(max(id), 0) FROM journal")[0][0])

    async def journal_extent(self) -> JournalExtent:
        first, tail = self.connections.rows("SELECT min(id), max(id) FROM journal")[0]
        if first is None:
            return JournalExtent(0, 0, 0)
        count = tail - first + 1
        ids = range(first, tail + 1, -(-count // MEASURED_SEGMENTS))
        sizes = [
            size
            for id in ids  # not by IN: it would read the table from end to end
            for (size,) in self.connections.rows("SELECT length(body) FROM journal WHERE id = ?", (id,))
        ]
        return JournalExtent(first - 1, tail, sum(sizes) * count // len(sizes))
