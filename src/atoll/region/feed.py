"""The change feed: all that a region commits, in its order, for consumers that keep a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from math import inf

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.floor import floors_of, lacking, origins_in, unfold
from atoll.causality.origin import of_region
from atoll.documents.entry import Change, Entry, decode_frames
from atoll.errors import CursorExpired
from atoll.region.group_commit import GroupCommit
from atoll.region.lost import Lost
from atoll.region.recovery import FailoverRecovery
from atoll.replication.beside import beside_loop
from atoll.replication.signal import Signal
from atoll.replication.source import start_of
from atoll.schema.bounds import BESIDE_BYTES
from atoll.store.port import Journal, Segment


class _Consumer:
    """Who follows the feed."""

    __slots__ = ("_next_id", "after_id", "at_s")

    def __init__(self) -> None:
        self.after_id: float = inf
        """A cursor up to this segment surely arrived: the one before the last, which may still be on its way."""
        self._next_id: float = inf
        self.at_s = 0.0
        """When it took a cursor last, by the event loop's clock."""

    def begin(self, after_id: int, at_s: float) -> None:
        self.after_id, self._next_id, self.at_s = after_id, after_id, at_s

    def took(self, after_id: int, at_s: float) -> None:
        self.after_id, self._next_id, self.at_s = self._next_id, after_id, at_s


class Feed:
    """Of one node; any number of consumers follow it."""

    def __init__(
        self,
        region: str,
        store: Journal,
        group_commit: GroupCommit,
        *,
        failover: FailoverRecovery,
        lost: Lost,
        committed: Signal,
    ) -> None:
        self._lost = lost
        self._region = region
        self._store = store
        self._group_commit = group_commit
        self._failover = failover
        self._committed = committed
        self._consumers: set[_Consumer] = set()

    async def changes(
        self, vector: Mapping[str, int], *, idle_s: float
    ) -> AsyncGenerator[tuple[Entry, dict[str, int]] | None, None]:
        """Every entry past `vector`, in this region's commit order, each with the vector after it.

        Those of a large segment come without their values.
        Because the cursor is a version vector it can be taken up in any region without missing anything.
        Yields None once `idle_s` seconds have passed since the last None, whatever came in between. So a consumer
        that drops entries can show progress. Raises CursorExpired where the journal does not hold what comes next.
        """
        seen = dict(vector)
        now_s = asyncio.get_running_loop().time
        due_s = now_s() + idle_s
        known, taken_up = -1, self._failover.state.taken_up
        consumer = _Consumer()
        self._consumers.add(consumer)
        try:
            while True:
                count, here = self._committed.count, self._group_commit.progress.vector
                if known != self._failover.state.turns:
                    known = self._failover.state.turns
                    after_id = await start_of(self._store, unfold(seen, here))
                    consumer.begin(after_id, now_s())
                    # However long the store took, something is shown before the first None.
                    due_s = now_s() + idle_s
                numbered = await self._store.journal(after_id, limit=16)
                if known != self._failover.state.turns:
                    continue  # the journal is another database's
                if taken_up != self._failover.state.taken_up:
                    taken_up, kept = self._failover.state.taken_up, self._failover.state.kept
                    for origin, seq in of_region(seen, self._region).items():  # what was shown beyond is lost
                        seen[origin] = min(seq, kept.get(origin, 0))
                    known = -1
                    continue
                found = bool(numbered)
                while numbered:  # what is done with goes: the consumer may be slow
                    if now_s() >= due_s:
                        yield None
                        consumer.took(after_id, now_s())
                        due_s = now_s() + idle_s
                    after_id = numbered[0].id
                    for entry in await _past(seen, numbered.pop(0).segment):
                        self._check_follows(seen, entry.context)
                        seen[entry.origin] = entry.seq
                        yield entry, dict(seen)
                if found or count != self._committed.count:
                    continue
                self._check_follows(seen, here)
                try:
                    async with asyncio.timeout_at(due_s):  # before 3.12 wait_for can swallow a cancellation
                        await self._committed.wait()
                except TimeoutError:
                    yield None
                    consumer.took(after_id, now_s())
                    due_s = now_s() + idle_s
        finally:
            self._consumers.discard(consumer)

    def held(self, absent_s: float) -> float:
        """The segment after which a consumer that is connected may come back; infinity for none.

        One that has taken nothing for `absent_s` seconds holds nothing.
        """
        since_s = asyncio.get_running_loop().time() - absent_s
        return min((each.after_id for each in self._consumers if each.at_s >= since_s), default=inf)

    async def check_cursor(self, vector: Mapping[str, int]) -> None:
        """Raises CursorExpired where `changes` would, on its first entries; and for changes that are lost."""
        if lost := self._lost.beyond(vector):
            what = ", ".join(f"{origin} past entry {end}" for origin, end in sorted(lost.items()))
            raise CursorExpired(
                f"this cursor has seen changes of {what}, which were lost with the region's data; follow from "
                "cursor=now, then read the collections again, and take up what the feed brings",
                gone={origin: end + 1 for origin, end in sorted(lost.items())},
            )
        nexts = {o: vector.get(o, 0) + 1 for o in lacking(vector, self._group_commit.progress.vector)}
        gone = {o: seq for o, seq in nexts.items() if await self._store.segment(o, seq) is None}
        if gone:
            raise self._expired(gone)

    async def oldest_cursor(self) -> dict[str, int]:
        """Just before the oldest change of each origin that the journal holds."""
        found: dict[str, int] = {}
        for origin, newest in sorted(origins_in(self._group_commit.progress.vector).items()):
            first, past = 1, newest + 1  # the first entry that is kept lies in between, or there is none
            while first < past and await self._store.segment(origin, first) is None:
                middle = (first + past) // 2
                if await self._store.segment(origin, middle) is None:
                    first = middle + 1
                else:
                    past = middle
                    if middle == first:
                        break
            if first > 1:
                found[origin] = first - 1
        return found

    def _check_follows(self, seen: dict[str, int], context: Mapping[str, int]) -> None:
        """In commit order, whatever comes has its past before it, unless that is not in the journal.

        Then what the floors of `context` stand for was seen, too.
        """
        if not vectors.descends(seen, context):
            if gone := lacking(seen, context):
                raise self._expired({origin: seen.get(origin, 0) + 1 for origin in gone})
            seen |= floors_of(vectors.missing(seen, context))

    def _expired(self, gone: Mapping[str, int]) -> CursorExpired:
        return CursorExpired(
            f"{self._region} no longer has all changes since this cursor in its journal; follow from cursor=now, then "
            "read the collections again, and take up what the feed brings",
            gone=dict(sorted(gone.items())),
        )


async def _past(seen: Mapping[str, int], segment: Segment) -> Iterable[Entry]:
    """The entries that were not seen. Those of a large segment have no values."""
    have = seen.get(segment.origin, 0)
    if segment.last_seq <= have or vectors.folds(seen, segment.origin):
        return ()
    if len(segment.body) > BESIDE_BYTES:
        return [each for each in await beside_loop(_without_values, segment.body) if each.seq > have]
    return (each.entry for each in decode_frames(segment.body) if each.entry.seq > have)


def _without_values(body: bytes) -> list[Entry]:
    """The entries of a segment, small enough to be kept while a consumer takes its time."""
    return [
        msgspec.structs.replace(
            each.entry,
            changes=tuple(Change(one.collection, one.key, one.operation, {}) for one in each.entry.changes),
        )
        for each in decode_frames(body)
    ]
