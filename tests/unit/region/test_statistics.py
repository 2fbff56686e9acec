from __future__ import annotations

from atoll.causality.clock import HybridLogicalClock
from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.documents.entry import Change, EncodedEntry, Entry, decode_frames, encode_frame
from atoll.documents.mutation import Write, put_of
from atoll.region.statistics import Statistics

from ..commit.replica import REGIONS, rules_of
from ..commit.shop import SHOP

RULES = rules_of(SHOP)
NOW_MS = 1_000_000


def batch() -> Batch:
    return Batch(
        Identity("a", REGIONS, 5, 1 << 20),
        RULES,
        HybridLogicalClock(lambda: NOW_MS),
        {},
        rows={},
        remembered={},
        audit={},
        now_ms=NOW_MS,
    )


def entry(origin: str, seq: int, ms: int, collection: str = "profile", key: str = "k") -> EncodedEntry:
    change = Change(collection, key, 0, {"": b'{"name":"%s","age":0}' % origin.encode()})
    made = Entry(origin, seq, ms << 16, 5, {origin: seq - 1} if seq > 1 else {}, (change,))
    return next(decode_frames(encode_frame(made)))


def counted(*entries: EncodedEntry, now_ms: int = NOW_MS) -> Statistics:
    it, statistics = batch(), Statistics()
    for each in entries:
        it.apply(each)
    statistics.committed(it, now_ms)
    return statistics


def test_local_and_remote_entries_are_told_apart() -> None:
    it, statistics = batch(), Statistics()
    for name in ("x", "y"):
        it.write(Write((put_of(RULES["profile"], name, b'{"name":"A"}'),)))
    it.apply(entry("b", 1, NOW_MS))
    it.apply(entry("c", 1, NOW_MS, key="l"))
    statistics.committed(it, NOW_MS)
    assert (statistics.writes, statistics.commits) == (2, 1)
    assert statistics.entries_applied == {"b": 1, "c": 1}


def test_conflicts_are_counted_by_collection_and_kind() -> None:
    assert counted(entry("b", 1, NOW_MS), entry("c", 1, NOW_MS)).conflicts == {
        ("profile", "insert_exists"): 1
    }
    assert counted(entry("b", 1, NOW_MS), entry("b", 2, NOW_MS)).conflicts == {}


def test_parked_changes_are_counted() -> None:
    assert counted(entry("b", 1, NOW_MS, "unheard")).parked == 1


def test_propagation_is_from_stamp_to_here() -> None:
    statistics = counted(entry("b", 1, NOW_MS - 30), entry("b", 2, NOW_MS - 10), entry("b", 3, NOW_MS - 20))
    assert statistics.propagation_p50_ms("b") == 20
    assert statistics.propagation_p50_ms("c") is None


def test_a_stamp_ahead_of_this_clock_took_no_time() -> None:
    assert counted(entry("b", 1, NOW_MS + 400)).propagation_p50_ms("b") == 0


def test_only_the_last_delays_are_kept() -> None:
    entries = [entry("b", seq, NOW_MS - (500 if seq <= 600 else 1)) for seq in range(1, 1200)]
    statistics = counted(*entries)
    assert len(statistics.propagation_ms["b"]) == 512
    assert statistics.propagation_p50_ms("b") == 1
