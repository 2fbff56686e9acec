"""The journal of a region in its SQLite database: segments in commit order, each under an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

from atoll.store.port import MEASURED_SEGMENTS, JournalExtent, Numbered, Segment
from atoll.store.sqlite.connections import Connections

_TRUNCATE = (
    "DELETE FROM journal WHERE id IN (SELECT id FROM journal "
    "WHERE id <= ? AND id < (SELECT max(id) FROM journal) ORDER BY id LIMIT ?)"
)


class Journal:
    """What the port says of the journal."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def read(self, after_id: int, *, limit: int = 64, limit_bytes: int = 4 << 20) -> list[Numbered]:
        found: list[Numbered] = []
        size_bytes = 0
        sql = "SELECT id, origin, first_seq, last_seq, body FROM journal WHERE id > ? ORDER BY id LIMIT ?"
        try:
            for id, origin, first_seq, last_seq, body in self._connections.reader.execute(
                sql, (after_id, limit)
            ):
                size_bytes += len(body)
                if found and size_bytes > limit_bytes:
                    break
                found.append(Numbered(id, Segment(origin, first_seq, last_seq, body)))
        except apsw.Error as error:
            raise self._connections.failure(error) from error
        return found

    def start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        # One origin's segments have rising ids, so its first one past the vector bounds them all.
        sql = "SELECT id FROM journal WHERE origin = ? AND last_seq > ? ORDER BY last_seq LIMIT 1"
        firsts = [
            id for origin in origins for (id,) in self._connections.rows(sql, (origin, vector.get(origin, 0)))
        ]
        return min(firsts) - 1 if firsts else self.tail()

    def segment(self, origin: str, seq: int) -> Segment | None:
        sql = (
            "SELECT origin, first_seq, last_seq, body FROM journal "
            "WHERE origin = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1"
        )
        for row in self._connections.rows(sql, (origin, seq)):
            segment = Segment._make(row)
            if segment.first_seq <= seq:
                return segment
        return None

    def tail(self) -> int:
        return int(self._connections.rows("SELECT coalesce(max(id), 0) FROM journal")[0][0])

    def extent(self) -> JournalExtent:
        first, tail = self._connections.rows("SELECT min(id), max(id) FROM journal")[0]
        if first is None:
            return JournalExtent(0, 0, 0)
        count = tail - first + 1
        ids = range(first, tail + 1, -(-count // MEASURED_SEGMENTS))
        sizes = [
            size
            for id in ids  # not by IN: it would read the table from end to end
            for (size,) in self._connections.rows("SELECT length(body) FROM journal WHERE id = ?", (id,))
        ]
        return JournalExtent(first - 1, tail, sum(sizes) * count // len(sizes))

    def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        with self._connections.transaction() as writer:
            before = writer.total_changes()
            writer.execute(_TRUNCATE, (up_to_id, limit))
            return writer.total_changes() - before
