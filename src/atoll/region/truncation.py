"""The journal is cut: what every region has, and no consumer of changes may still come back for, goes.

Whoever comes back later than that is told so, never served with a gap (`replication.source`, `region.feed`).
So nothing here has to be exact: too little knowledge of the peers only keeps more. Any node of a region may cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import NamedTuple

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.causality.floor import origins_in
from atoll.causality.vector import VersionVector
from atoll.commit.batch import Batch
from atoll.commit.work import Step, Wants
from atoll.documents.entry import decode_frames
from atoll.region.options import RegionOptions
from atoll.replication.beside import beside_loop
from atoll.replication.link import Linked
from atoll.replication.source import start_of
from atoll.store.port import JournalExtent, Store, View

_PARTS = 16
"""Retention and absence are kept to within a sixteenth of themselves."""
_MARKS = _PARTS + 2
"""So many that one is always older than the retention."""


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What the region's nodes know of the journal's age and of their peers, across restarts."""

    marks: tuple[tuple[int, int], ...] = ()
    """(unix milliseconds, the journal's tail at that time or a little before), the newest last."""
    heard_ms: dict[str, int] = {}
    """peer → when it was last heard (unix milliseconds)."""


_STATE = ("truncation", "known")
_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder(Known).decode


class Remember(NamedTuple):
    """A step of a group commit: what one node has come to know."""

    mark: tuple[int, int] | None
    heard_ms: Mapping[str, int]

    def want(self, wants: Wants) -> None:
        wants.states.append(_STATE)

    def perform(self, batch: Batch, view: View) -> None:
        stored = view.states.get(_STATE)
        batch.pending.states[_STATE] = _encode(self.added_to(Known() if stored is None else _decode(stored)))

    def added_to(self, known: Known) -> Known:
        marks = known.marks
        if self.mark is not None and self.mark > (marks[-1] if marks else (0, 0)):
            marks = (*marks, self.mark)[-_MARKS:]
        latest = {peer: max(at_ms, known.heard_ms.get(peer, 0)) for peer, at_ms in self.heard_ms.items()}
        return Known(marks, {**known.heard_ms, **latest})


class Truncation:
    """Call `round` now and then, beside the writers."""

    def __init__(
        self,
        links: Mapping[str, Linked],
        store: Store,
        commit: Callable[[Step], Awaitable[None]],
        *,
        now_ms: Callable[[], int],
        options: RegionOptions,
        consumers: Callable[[float], float] = lambda absent_s: inf,
    ) -> None:
        """`consumers`: what those hold back who follow the changes here, see `Feed.held`."""
        self.extent = JournalExtent(0, 0, 0)
        """As of the last round."""
        self.oldest_ms: int | None = None
        """When the oldest entry was written that is kept (unix milliseconds, from its stamp)."""
        self.truncated = 0
        """Segments that this node has removed."""
        self._links = links
        self._store = store
        self._now_ms = now_ms
        self._options = options
        self._commit = commit
        self._consumers = consumers
        self._known: Known | None = None
        """What the store holds of it; None before the first round."""

    async def round(self) -> int:
        """Cut what may go; how many segments went. Raises what the store raises."""
        if self._known is None:
            stored = await self._store.state(*_STATE)
            self._known = Known() if stored is None else _decode(stored)
        now_ms = self._now_ms()
        extent = await self._store.journal_extent()
        await self._remember(self._known, now_ms, extent.tail)
        aged = min(self._aged(now_ms, extent.tail), self._consumers(self._options.journal_absent_s))
        up_to_id = int(min(aged, await self._had_by(self._present(now_ms))))
        most = self._options.journal_most_bytes
        if most is not None and extent.size_bytes > most:
            over = extent.after_id + -(-extent.segments * (extent.size_bytes - most) // extent.size_bytes)
            connected = [peer for peer, link in self._links.items() if link.status.connected]
            up_to_id = max(up_to_id, min(over, await self._had_by(connected)))
        removed = 0
        while gone := await self._store.truncate(up_to_id):
            removed += gone
            self.truncated += gone
            await asyncio.sleep(0)
        await self._look()
        return removed

    def _aged(self, now_ms: int, tail: int) -> int:
        """The last segment that is surely older than the retention."""
        until_ms = now_ms - int(self._options.journal_s * 1000)
        # A copy that was restored counts its segments anew: marks past its tail are of another journal.
        marks = () if self._known is None else self._known.marks
        return max((id for at_ms, id in marks if at_ms <= until_ms and id <= tail), default=0)

    def _present(self, now_ms: int) -> list[str]:
        """The peers that hold the journal back by what they lack."""
        absent_ms = int(self._options.journal_absent_s * 1000)
        heard_ms = {} if self._known is None else self._known.heard_ms
        return [
            peer
            for peer, link in self._links.items()
            if link.status.connected or now_ms - max(link.status.heard_ms, heard_ms.get(peer, 0)) <= absent_ms
        ]

    async def _had_by(self, peers: Iterable[str]) -> int:
        """The id up to which these peers have everything durably; one not heard since the start may have nothing."""
        vectors = [self._links[peer].status.advertised for peer in peers]
        if not vectors:
            return self.extent.tail
        origins = {origin for vector in vectors for origin in origins_in(vector)}
        common: VersionVector = {
            origin: min(vector.get(origin, 0) for vector in vectors) for origin in origins
        }
        return await start_of(self._store, common)

    async def _remember(self, known: Known, now_ms: int, tail: int) -> None:
        """For later runs and other nodes: when each peer was heard; one that never was counts from now.

        Also, that the segments up to `tail` are at least as old as this moment.
        """
        marked_ms = known.marks[-1][0] if known.marks else 0
        due = (now_ms - marked_ms) * _PARTS >= self._options.journal_s * 1000
        step_ms = self._options.journal_absent_s * 1000 / _PARTS
        heard_ms = {}
        for peer, link in self._links.items():
            known_ms = known.heard_ms.get(peer, 0)
            at_ms = link.status.heard_ms or (0 if known_ms else now_ms)
            if at_ms > known_ms and (at_ms - known_ms >= step_ms or not known_ms):
                heard_ms[peer] = at_ms
        if due or heard_ms:
            step = Remember((now_ms, tail) if due else None, heard_ms)
            await self._commit(step)
            self._known = step.added_to(known)

    async def _look(self) -> None:
        self.extent = await self._store.journal_extent()
        oldest = await self._store.journal(self.extent.after_id, limit=1)
        self.oldest_ms = await beside_loop(_first_ms, oldest[0].segment.body) if oldest else None


def _first_ms(body: bytes) -> int:
    """When the first entry of a segment was written. It may be large."""
    return stamp_ms(next(decode_frames(body)).entry.stamp)
