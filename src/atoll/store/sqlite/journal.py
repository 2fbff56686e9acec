"""The journal of a region in its SQLite database: segments in commit order, each under an id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import closing

import apsw

from atoll.schema.bounds import BESIDE_BYTES, PAGE_BYTES
from atoll.store.port import JournalExtent, Numbered, Segment
from atoll.store.queries import MEASURED_SEGMENTS
from atoll.store.sqlite.connections import Connections

# One origin's segments have rising ids, so its first one past the vector bounds them all.
_START = "SELECT id FROM journal WHERE origin = ? AND last_seq > ? ORDER BY last_seq LIMIT 1"


_READ = (
    f"SELECT id, origin, first_seq, last_seq, CASE WHEN length(body) <= {BESIDE_BYTES} THEN body END"
    " FROM journal WHERE id > ? ORDER BY id LIMIT ?"
)


class SqliteJournal:
    """The port `Journal`, as far as a file is asked in another way."""

    connections: Connections

    async def journal(
        self, after_id: int, *, limit: int = 64, limit_bytes: int = PAGE_BYTES
    ) -> list[Numbered]:
        found: list[Numbered] = []
        try:
            for id, origin, first, last, body in self.connections.reader.execute(_READ, (after_id, limit)):
                if body is None:
                    break
                found.append(Numbered(id, Segment(origin, first, last, body)))
                limit_bytes -= len(body)
                if limit_bytes <= 0:
                    return found
            else:
                return found
        except apsw.Error as error:
            raise self.connections.failure(error) from error
        return found or await asyncio.to_thread(self._long_segment, id)

    def _long_segment(self, id: int) -> list[Numbered]:
        """For another thread than the loop's. Empty when it was truncated meanwhile."""
        try:
            with closing(self.connections.connect_reader()) as reader:
                select = "SELECT origin, first_seq, last_seq, body FROM journal WHERE id = ?"
                return [Numbered(id, Segment(*row)) for row in reader.execute(select, (id,))]
        except apsw.Error as error:
            raise self.connections.failure(error) from error

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
