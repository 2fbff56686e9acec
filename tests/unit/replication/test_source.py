from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.entry import EncodedEntry
from atoll.replication import source
from atoll.replication.messages import StreamRequest
from atoll.replication.signal import Signal
from atoll.replication.wire import FrameReader, FrameWriter, Heartbeat, JournalBegins, Large, Message
from atoll.store.memory.store import MemoryStore
from atoll.store.port import Commit, Segment

from ..virtual_time import in_virtual_time
from .entries import NOW_MS, dots, segment

KEY = b"k" * 32


class Sending:
    """A region's journal, and one peer that reads it."""

    def __init__(self, *segments: Segment) -> None:
        self.store = MemoryStore()
        self.committed = Signal()
        self.reader = FrameReader(KEY)
        for each in segments:
            self.append(each)

    def append(self, each: Segment) -> None:
        self.store.tables.commit(Commit(segments=[each], positions={each.origin: each.last_seq}))
        self.committed.notify()

    async def heartbeat(self) -> Heartbeat:
        return Heartbeat("a", NOW_MS, await self.store.positions(), {})

    def stream(self, vector: dict[str, int], *origins: str) -> AsyncIterator[bytes]:
        request = StreamRequest("z", vector, origins)
        writer = FrameWriter(KEY)
        return source.stream(self.store, request, self.committed, self.heartbeat, writer, heartbeat_s=0.2)

    async def next_of(self, stream: AsyncIterator[bytes]) -> Message:
        (message,) = self.reader.feed(await anext(stream))
        return message.read() if isinstance(message, Large) else message

    async def entries(self, stream: AsyncIterator[bytes], wanted: int) -> list[tuple[str, int]]:
        found: list[EncodedEntry] = []
        while len(found) < wanted:
            message = await self.next_of(stream)
            if isinstance(message, list):
                found += message
        return dots(found)


@in_virtual_time
async def test_it_says_first_how_far_it_is() -> None:
    it = Sending(segment("a", 1, 3))
    message = await it.next_of(it.stream({}, "a"))
    assert isinstance(message, Heartbeat)
    assert message.vector == {"a": 3}


@in_virtual_time
async def test_it_goes_on_in_the_middle_of_a_segment() -> None:
    it = Sending(segment("a", 1, 4), segment("a", 5, 6))
    assert await it.entries(it.stream({"a": 2}, "a"), 4) == [("a", seq) for seq in (3, 4, 5, 6)]


@in_virtual_time
async def test_it_sends_the_origins_that_were_asked_for() -> None:
    it = Sending(segment("a", 1, 2), segment("b", 1, 2), segment("c", 1, 1), segment("a", 3, 3))
    found = await it.entries(it.stream({"b": 1}, "a", "b"), 4)
    assert found == [("a", 1), ("a", 2), ("b", 2), ("a", 3)]


@in_virtual_time
async def test_what_is_committed_later_follows() -> None:
    it = Sending(segment("a", 1, 1))
    stream = it.stream({}, "a")
    assert await it.entries(stream, 1) == [("a", 1)]
    asyncio.get_running_loop().call_later(60, it.append, segment("a", 2, 3))
    assert await it.entries(stream, 2) == [("a", 2), ("a", 3)]


@in_virtual_time
async def test_an_idle_link_hears_a_heartbeat() -> None:
    it = Sending()
    stream = it.stream({}, "a")
    for _ in range(5):
        assert isinstance(await it.next_of(stream), Heartbeat)
    assert asyncio.get_running_loop().time() < 1.0


@in_virtual_time
async def test_a_busy_link_hears_heartbeats_too() -> None:
    """Without them a peer could not tell a link that keeps up from one that falls behind."""
    it = Sending()
    stream = it.stream({}, "a")
    await it.next_of(stream)
    kinds: list[type] = []
    for seq in range(1, 41):
        asyncio.get_running_loop().call_later(0.05, it.append, segment("a", seq, seq))
        kinds.append(type(await it.next_of(stream)))
    assert kinds.count(Heartbeat) >= 5


class Saying(Sending):
    """A region whose heartbeats say what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Heartbeat("a", NOW_MS, {"a": 1, "b": 1, "c": 1}, {"b": NOW_MS, "c": NOW_MS})

    async def heartbeat(self) -> Heartbeat:
        return self.now

    async def heartbeats(self, stream: AsyncIterator[bytes], count: int) -> list[Heartbeat]:
        found = [await self.next_of(stream) for _ in range(count)]
        return [each for each in found if isinstance(each, Heartbeat)]


@in_virtual_time
async def test_heartbeats_leave_out_what_was_said_before() -> None:
    it = Saying()
    stream = it.stream({"a": 1, "b": 1}, "a", "b")
    first, second = await it.heartbeats(stream, 2)
    assert (first.vector, first.fresh) == (it.now.vector, it.now.fresh)
    assert (second.vector, second.fresh) == ({"a": 1, "b": 1}, {"b": NOW_MS})
    it.now = Heartbeat("a", NOW_MS, {"a": 1, "b": 1, "c": 2}, it.now.fresh)
    (third,) = await it.heartbeats(stream, 1)
    assert third.vector == {"a": 1, "b": 1, "c": 2}


@in_virtual_time
async def test_a_moment_comes_with_the_seq_that_it_stands_for() -> None:
    it = Saying()
    stream = it.stream({"a": 1, "b": 1}, "a")
    await it.heartbeats(stream, 2)
    it.now = Heartbeat("a", NOW_MS, it.now.vector, {"b": NOW_MS + 999, "c": NOW_MS + 1000})
    (later,) = await it.heartbeats(stream, 1)
    assert (later.vector, later.fresh) == ({"a": 1, "c": 1}, {"c": NOW_MS + 1000})


@in_virtual_time
async def test_each_stream_is_told_everything_once() -> None:
    it = Saying()
    for _ in range(2):
        (first,) = await it.heartbeats(it.stream({"a": 1, "b": 1}, "a"), 1)
        assert (first.vector, first.fresh) == (it.now.vector, it.now.fresh)


@in_virtual_time
async def test_chunks_are_bounded() -> None:
    it = Sending(*(segment("a", seq, seq, size=600_000) for seq in range(1, 6)))
    stream = it.stream({}, "a")
    await it.next_of(stream)
    message = await it.next_of(stream)
    assert isinstance(message, list)
    assert len(message) <= 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=12), st.data())
def test_a_peer_gets_each_entry_that_it_lacks_once(runs: list[tuple[str, int]], data: st.DataObject) -> None:
    at = dict.fromkeys("abc", 0)
    segments = []
    for origin, length in runs:
        segments.append(segment(origin, at[origin] + 1, at[origin] + length))
        at[origin] += length
    vector = {origin: data.draw(st.integers(0, last)) for origin, last in at.items()}
    origins = data.draw(st.sets(st.sampled_from("abc"), min_size=1))
    wanted = {(o, seq) for o in origins for seq in range(vector[o] + 1, at[o] + 1)}

    @in_virtual_time
    async def scenario() -> None:
        it = Sending(*segments)
        found = await it.entries(it.stream(vector, *origins), len(wanted))
        assert len(found) == len(wanted)
        assert set(found) == wanted

    scenario()


@in_virtual_time
async def test_whoever_wants_no_entries_hears_how_far_it_is() -> None:
    it = Sending(segment("a", 1, 3))
    stream = it.stream({})
    for _ in range(3):
        message = await it.next_of(stream)
        assert isinstance(message, Heartbeat)
        assert message.vector["a"] >= 3
        it.append(segment("a", message.vector["a"] + 1, message.vector["a"] + 1))


async def too_late(it: Sending, stream: AsyncIterator[bytes]) -> tuple[list[tuple[str, int]], JournalBegins]:
    """What comes before the stream says that the journal begins later, and what it says."""
    found: list[EncodedEntry] = []
    while True:
        message = await it.next_of(stream)
        if isinstance(message, JournalBegins):
            return dots(found), message
        if isinstance(message, list):
            found += message


@in_virtual_time
async def test_what_was_truncated_is_not_skipped_in_silence() -> None:
    it = Sending(segment("a", 1, 2), segment("b", 1, 2), segment("a", 3, 4))
    await it.store.truncate(2)
    assert await too_late(it, it.stream({"a": 1}, "a")) == ([], JournalBegins({"a": 2}))
    assert await too_late(it, it.stream({}, "a", "b")) == ([], JournalBegins({"a": 2}))
    assert await too_late(it, it.stream({"a": 4}, "a", "b")) == ([], JournalBegins({"b": 2}))


@in_virtual_time
async def test_a_peer_that_has_what_was_truncated_goes_on() -> None:
    it = Sending(segment("a", 1, 2), segment("b", 1, 2), segment("a", 3, 4))
    await it.store.truncate(2)
    assert await it.entries(it.stream({"a": 2, "b": 2}, "a", "b"), 2) == [("a", 3), ("a", 4)]


@in_virtual_time
async def test_truncation_under_a_stream_is_noticed() -> None:
    it = Sending(segment("a", 1, 2))
    stream = it.stream({}, "a")
    assert await it.entries(stream, 2) == [("a", 1), ("a", 2)]
    for seq in (3, 4):
        it.append(segment("a", seq, seq))
    await it.store.truncate(2)
    assert await too_late(it, stream) == ([], JournalBegins({"a": 3}))


@in_virtual_time
async def test_a_gap_where_a_snapshot_was_taken_over_is_noticed() -> None:
    it = Sending(segment("a", 1, 2), segment("b", 1, 1))
    it.store.tables.commit(Commit(positions={"a": 9, "b": 5}))
    it.append(segment("a", 10, 11))
    assert await too_late(it, it.stream({"b": 1}, "a")) == ([("a", 1), ("a", 2)], JournalBegins({"a": 9}))
    assert await too_late(it, it.stream({}, "b")) == ([("b", 1)], JournalBegins({"b": 5}))


@in_virtual_time
async def test_only_heartbeats_follow_once_the_journal_begins_later() -> None:
    it = Sending(segment("a", 1, 2), segment("b", 1, 2))
    await it.store.truncate(1)
    stream = it.stream({"b": 2}, "a", "b")
    await too_late(it, stream)
    it.append(segment("b", 3, 3))
    for _ in range(3):
        assert isinstance(await it.next_of(stream), Heartbeat)


@in_virtual_time
async def test_a_floor_is_nothing_that_a_journal_lacks() -> None:
    it = Sending(segment("a~5", 1, 3))
    it.store.tables.commit(Commit(positions={"a~": 5}))
    stream = it.stream({}, "a")
    messages = [await it.next_of(stream) for _ in range(4)]
    assert [type(each) for each in messages] == [Heartbeat, list, Heartbeat, Heartbeat]
