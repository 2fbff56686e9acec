"""The journal is cut: what every region has, and no consumer of changes may still come back for, goes.

Whoever comes back later than that is told so, never served with a gap (`replication.source`, `region.feed`).
So nothing here has to be exact: too little knowledge of the peers only keeps more. Any node of a region may cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from atoll.documents.entry import decode_frames
from atoll.region.options import RegionOptions
from atoll.replication.link import LinkStatus
from atoll.store.port import JournalExtent, Store

_PARTS = 16
"""Retention and absence are kept to within a sixteenth of themselves."""
_MARKS = _PARTS + 2
"""So many that one is always older than the retention."""


class Linked(Protocol):
    """A link, as far as it is needed here."""

    @property
    def status(self) -> LinkStatus:
        """What it knows of its peer."""


class Truncation:
    """Call `round` now and then, beside the writers."""

    def __init__(
        self,
        regions: Iterable[str],
        links: Mapping[str, Linked],
        store: Store,
        now_ms: Callable[[], int],
        options: RegionOptions,
    ) -> None:
        self.extent = JournalExtent(0, 0, 0)
        """As of the last round."""
        self.oldest_ms: int | None = None
        """When the oldest entry was written that is kept (unix milliseconds, from its stamp)."""
        self.truncated = 0
        """Segments that this node has removed."""
        self._regions = tuple(regions)
        self._links = links
        self._store = store
        self._now_ms = now_ms
        self._options = options
        self._marks: list[tuple[int, int]] = []
        """(unix milliseconds, the journal's tail at that time or a little before), in slots that are used in turn."""
        self._heard_ms: dict[str, int] = {}
        """peer → when it was last heard, also by earlier runs; what the store holds of it."""

    async def _open(self) -> None:
        """Take up what earlier runs knew."""
        store = self._store
        marks = [(await store.counter(_at(slot)), await store.counter(_tail(slot))) for slot in range(_MARKS)]
        self._heard_ms = {peer: await store.counter(_heard(peer)) for peer in self._links}
        self._marks = marks

    async def round(self) -> int:
        """Cut what may go; how many segments went. Raises what the store raises."""
        if not self._marks:
            await self._open()
        now_ms = self._now_ms()
        extent = await self._store.journal_extent()
        await self._mark(now_ms, extent.tail)
        await self._remember_heard(now_ms)
        up_to_id = min(self._aged(now_ms, extent.tail), await self._had_by(self._present(now_ms)))
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
        return max((id for at_ms, id in self._marks if 0 < at_ms <= until_ms and id <= tail), default=0)

    def _present(self, now_ms: int) -> list[str]:
        """The peers that hold the journal back by what they lack."""
        absent_ms = int(self._options.journal_absent_s * 1000)
        return [
            peer
            for peer, link in self._links.items()
            if link.status.connected or now_ms - max(link.status.heard_ms, self._heard_ms[peer]) <= absent_ms
        ]

    async def _had_by(self, peers: Iterable[str]) -> int:
        """The id up to which these peers have everything durably; one not heard since the start may have nothing."""
        vectors = [self._links[peer].status.advertised for peer in peers]
        if not vectors:
            return self.extent.tail
        common = {origin: min(vector.get(origin, 0) for vector in vectors) for origin in self._regions}
        return await self._store.journal_start(common, self._regions)

    async def _mark(self, now_ms: int, tail: int) -> None:
        """Remember that the segments up to `tail` are at least as old as this moment."""
        newest = max(range(_MARKS), key=lambda slot: self._marks[slot][0])
        if (now_ms - self._marks[newest][0]) * _PARTS < self._options.journal_s * 1000:
            return
        slot = (newest + 1) % _MARKS
        # In this order: a crash in between leaves a mark that says too little, not too much.
        await self._store.raise_counter(_at(slot), now_ms)
        await self._store.raise_counter(_tail(slot), tail)
        self._marks[slot] = (now_ms, tail)

    async def _remember_heard(self, now_ms: int) -> None:
        """Across restarts, a sixteenth of the allowed absence at a time; one never heard counts from now."""
        step_ms = self._options.journal_absent_s * 1000 / _PARTS
        for peer, link in self._links.items():
            known_ms = self._heard_ms[peer]
            heard_ms = link.status.heard_ms or (0 if known_ms else now_ms)
            if heard_ms > known_ms and (heard_ms - known_ms >= step_ms or not known_ms):
                await self._store.raise_counter(_heard(peer), heard_ms)
                self._heard_ms[peer] = heard_ms

    async def _look(self) -> None:
        self.extent = await self._store.journal_extent()
        oldest = await self._store.journal(self.extent.after_id, limit=1)
        self.oldest_ms = next(decode_frames(oldest[0].segment.body)).entry.stamp >> 16 if oldest else None


def _at(slot: int) -> str:
    return f"journal mark {slot} ms"


def _tail(slot: int) -> str:
    return f"journal mark {slot} tail"


def _heard(peer: str) -> str:
    return f"heard {peer} ms"
