from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from atoll.causality.clock import HybridLogicalClock
from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.commit.work import Step, Wants
from atoll.documents.entry import Change, Entry, encode_frame
from atoll.region.options import RegionOptions
from atoll.region.truncation import Truncation
from atoll.replication.link import LinkStatus
from atoll.store.memory.store import MemoryStore
from atoll.store.port import Commit, Segment

from ..virtual_time import in_virtual_time
from .world import World

HOUR_MS = 3_600_000
KEEP_S = 16 * 3600.0
"""So that a mark is due each hour."""


class Kept:
    """A region's journal, and what its links know of two peers."""

    def __init__(self, store: MemoryStore | None = None, now_ms: int = HOUR_MS, **options: Any) -> None:
        self.store = store or MemoryStore()
        self.now_ms = now_ms
        self.links = {peer: SimpleNamespace(status=LinkStatus(peer)) for peer in "bc"}
        self.truncation = Truncation(
            self.links,
            self.store,
            self.commit,
            now_ms=lambda: self.now_ms,
            options=RegionOptions(journal_s=KEEP_S, journal_absent_s=64 * 3600.0, **options),
        )

    async def commit(self, step: Step) -> None:
        """As the group commit does."""
        wants = Wants({})
        step.want(wants)
        async with self.store.begin(wants.wanted()) as transaction:
            batch = Batch(
                Identity("a", tuple("abc"), 0, 0),
                {},
                HybridLogicalClock(lambda: self.now_ms),
                transaction.positions,
                rows={},
                remembered={},
                audit={},
                now_ms=self.now_ms,
            )
            step.perform(batch, transaction)
            await transaction.commit(batch.commit())

    def append(self, origin: str, seq: int, size: int = 1) -> None:
        change = Change("note", "k", 0, {"": b"x" * size})
        frame = encode_frame(Entry(origin, seq, self.now_ms << 16, 0, {origin: seq - 1}, (change,)))
        self.store.tables.commit(Commit(segments=[Segment(origin, seq, seq, frame)], positions={origin: seq}))

    def heard(self, **advertised: dict[str, int]) -> None:
        for peer, vector in advertised.items():
            status = self.links[peer].status
            status.advertised, status.heard_ms, status.connected = vector, self.now_ms, True

    async def hours(self, count: int) -> int:
        """Rounds, an hour apart; how many segments went."""
        removed = 0
        for _ in range(count):
            removed += await self.truncation.round()
            self.now_ms += HOUR_MS
        return removed

    async def left(self) -> list[tuple[str, int]]:
        return [(each.segment.origin, each.segment.last_seq) for each in await self.store.journal(0)]


@in_virtual_time
async def test_what_all_have_goes_once_it_is_old() -> None:
    it = Kept()
    for seq in (1, 2, 3):
        it.append("a", seq)
    it.heard(b={"a": 3}, c={"a": 3})
    assert await it.hours(16) == 0
    assert await it.hours(2) == 2
    assert await it.left() == [("a", 3)]
    assert (it.truncation.extent.after_id, it.truncation.truncated) == (2, 2)


@in_virtual_time
async def test_young_entries_stay() -> None:
    it = Kept()
    it.append("a", 1)
    await it.hours(10)
    it.append("a", 2)
    it.append("a", 3)
    it.heard(b={"a": 3}, c={"a": 3})
    assert await it.hours(8) == 1
    assert await it.left() == [("a", 2), ("a", 3)]


@in_virtual_time
async def test_what_one_peer_lacks_stays() -> None:
    it = Kept()
    for dot in (("a", 1), ("b", 1), ("a", 2), ("b", 2)):
        it.append(*dot)
    it.heard(b={"a": 2, "b": 2}, c={"a": 1, "b": 2})
    assert await it.hours(20) == 2
    assert await it.left() == [("a", 2), ("b", 2)]


@in_virtual_time
async def test_a_peer_not_heard_since_the_start_keeps_everything() -> None:
    it = Kept()
    it.append("a", 1)
    it.append("a", 2)
    it.heard(b={"a": 2})
    assert await it.hours(40) == 0


@in_virtual_time
async def test_a_peer_away_for_too_long_keeps_nothing_any_more() -> None:
    it = Kept()
    it.append("a", 1)
    it.append("a", 2)
    it.heard(c={"a": 0})
    it.links["c"].status.connected = False
    for _ in range(64):
        it.heard(b={"a": 2})
        assert await it.hours(1) == 0
    it.heard(b={"a": 2})
    assert await it.hours(2) == 1


@in_virtual_time
async def test_a_connected_peer_is_never_away() -> None:
    it = Kept()
    it.append("a", 1)
    it.append("a", 2)
    it.heard(b={"a": 2}, c={"a": 0})
    assert await it.hours(80) == 0


@in_virtual_time
async def test_absence_and_age_outlast_a_restart() -> None:
    it = Kept()
    it.append("a", 1)
    it.append("a", 2)
    it.heard(b={"a": 2}, c={})
    assert await it.hours(50) == 0
    again = Kept(it.store, it.now_ms)
    for _ in range(18):
        again.heard(b={"a": 2})
        await again.hours(1)
    assert await again.left() == [("a", 2)]


@in_virtual_time
async def test_a_bound_on_the_size_spares_only_what_connected_peers_lack() -> None:
    it = Kept(journal_most_bytes=3000)
    for seq in range(1, 11):
        it.append("a", seq, size=1000)
    it.heard(b={"a": 4}, c={"a": 10})
    await it.hours(1)
    assert (await it.left())[0] == ("a", 5)
    it.links["b"].status.connected = False
    await it.hours(1)
    assert await it.left() == [("a", 9), ("a", 10)]


@in_virtual_time
async def test_marks_of_a_journal_that_a_backup_replaced_are_not_believed() -> None:
    it = Kept()
    for seq in range(1, 6):
        it.append("a", seq)
    await it.hours(3)
    copy = MemoryStore()
    copied = {("truncation", key): value for key, value in it.store.tables.states("truncation")}
    copy.tables.commit(Commit(states={**copied}))
    again = Kept(copy, it.now_ms + 17 * HOUR_MS)
    again.append("a", 6)
    again.append("a", 7)
    again.heard(b={"a": 7}, c={"a": 7})
    assert await again.hours(1) == 0


@in_virtual_time
async def test_a_region_cuts_what_its_peers_say_that_they_have() -> None:
    async with World(journal_s=0.0, journal_round_s=5.0) as it:
        for n in range(5):
            await it.write("a", "note", "k", {"text": str(n)})
        await it.settled()
        await asyncio.sleep(12)
        assert [store.tables.journal_extent().segments for store in it.stores.values()] == [1, 1, 1]
        it.partition("ab", "ac")
        for n in range(5):
            await it.write("a", "note", "k", {"text": str(n)})
        await asyncio.sleep(12)
        assert it.stores["a"].tables.journal_extent().segments >= 5
        it.partition()
        await it.settled()
        await asyncio.sleep(12)
        assert it.stores["a"].tables.journal_extent().segments == 1
