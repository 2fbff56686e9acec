"""The journal of a region in its SQLite database: segments in commit order, each under an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

from atoll.schema.bounds import PAGE_BYTES
from atoll.store.port import JournalExtent, Numbered, Segment
from atoll.store.queries import MEASURED_SEGMENTS, SEGMENT_COLUMNS
from atoll.store.sqlite.connections import Connections

_READ = f"SELECT id, {SEGMENT_COLUMNS} FROM journal WHERE id > ? ORDER BY id LIMIT ?"
# One origin's segments have rising ids, so its first one past the vector bounds them all.
_START = "SELECT id FROM journal WHERE origin = ? AND last_seq > ? ORDER BY last_seq LIMIT 1"


class SqliteJournal:
    """The segments of the port `Journal`."""

    connections: Connections

    async def journal(
        self, after_id: int, *, limit: int = 64, limit_bytes: int = PAGE_BYTES
    ) -> list[Numbered]:
        found: list[Numbered] = []
        size_bytes = 0
        try:
            for id, *segment in self.connections.reader.execute(_READ, (after_id, limit)):
                size_bytes += len(segment[-1])
                if found and size_bytes > limit_bytes:
                    break
                found.append(Numbered(id, Segment(*segment)))
        except apsw.Error as error:
            raise self.connections.failure(error) from error
        return found

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
