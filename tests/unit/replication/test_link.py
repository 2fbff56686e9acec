from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from random import Random

import pytest

from atoll.documents.entry import EncodedEntry, Restricted, audience_of, encode_frame, frames_for
from atoll.errors import HostileEntry, RegionUnreachable
from atoll.membership.members import Members, Membership
from atoll.replication.link import Link, LinkOptions
from atoll.replication.messages import Call, Reply, StreamRequest
from atoll.replication.wire import FrameWriter, Heartbeat, JournalBegins

from ..virtual_time import in_virtual_time, turns
from .entries import NOW_MS, dots, encoded, segment

KEY = b"k" * 32
WRITER = FrameWriter(KEY)

Script = Callable[[StreamRequest], AsyncGenerator[bytes, None]]


def hello(vector: dict[str, int] | None = None, region: str = "b") -> bytes:
    return WRITER.heartbeat(Heartbeat(region, NOW_MS, vector or {}, {}))


def entries(origin: str, first: int, last: int) -> bytes:
    return WRITER.entries(segment(origin, first, last).body)


class FakePeers:
    """Answers each request for a stream with the next script; without one it is out of reach."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.requests: list[tuple[float, StreamRequest]] = []

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        raise AssertionError("links only stream")

    async def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        self.requests.append((asyncio.get_running_loop().time(), request))
        if not self.scripts:
            raise RegionUnreachable("nobody there")
        async for chunk in self.scripts.pop(0)(request):
            yield chunk


class FakeReceiver:
    name = "a"
    origin = "a"
    members = Members(Membership.of("abc"))

    def __init__(self) -> None:
        self.wanted: tuple[str, ...] = ("b", "a")
        self.vector: dict[str, int] = {}
        self.delivered: list[EncodedEntry] = []
        self.heartbeats: list[Heartbeat] = []
        self.late: list[tuple[str, dict[str, int]]] = []
        self.open = asyncio.Event()
        self.open.set()

    def origins(self, peer: str) -> tuple[str, ...]:
        return self.wanted

    def deliver(self, encoded: list[EncodedEntry], link: str) -> None:
        self.delivered += encoded
        for each in encoded:
            self.vector[each.entry.origin] = each.entry.seq

    async def backpressure(self, link: str, bytes_waiting: int) -> None:
        await self.open.wait()

    def heard(self, peer: str, heartbeat: Heartbeat) -> None:
        self.heartbeats.append(heartbeat)

    def too_late(self, peer: str, past: dict[str, int]) -> None:
        self.late.append((peer, past))


class Setup:
    def __init__(self, *scripts: Script) -> None:
        self.peers = FakePeers(*scripts)
        self.receiver = FakeReceiver()
        self.changes: list[bool] = []
        self.link = Link(
            "b",
            self.receiver,
            self.peers,
            KEY,
            now_ms=lambda: NOW_MS,
            random=Random(7),
            options=LinkOptions(first_retry_s=0.1, longest_retry_s=2.0, silence_s=3.0),
        )
        self.status = self.link.status

    async def run(self, seconds: float) -> None:
        task = asyncio.create_task(self.link.run(lambda: self.changes.append(self.status.connected)))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.peers.requests]


def saying(*chunks: bytes, then: float | None = None) -> Script:
    """Send the pieces; then stay silent, or end after `then` seconds."""

    async def script(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        for chunk in chunks:
            yield chunk
        if then is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(then)

    return script


@in_virtual_time
async def test_entries_reach_the_region() -> None:
    it = Setup(saying(hello({"b": 5}), entries("b", 1, 3), entries("b", 4, 5)))
    await it.run(1)
    assert dots(it.receiver.delivered) == [("b", seq) for seq in range(1, 6)]
    assert it.status.connected
    assert it.status.received_entries == 5
    assert it.status.advertised == {"b": 5}
    assert it.changes == [True]


@in_virtual_time
async def test_heartbeats_add_up_until_the_stream_is_opened_anew() -> None:
    it = Setup(saying(hello({"b": 5, "c": 9}), hello({"b": 6}), then=1), saying(hello({"b": 7})))
    await it.run(0.5)
    assert it.status.advertised == {"b": 6, "c": 9}
    it.link.review()
    await it.run(2)
    assert it.status.advertised == {"b": 7}


@in_virtual_time
async def test_it_resumes_after_what_was_taken() -> None:
    it = Setup(saying(hello(), entries("b", 1, 3), then=1), saying(hello(), entries("b", 4, 4)))
    await it.run(3)
    assert [request.vector for _, request in it.peers.requests] == [{}, {"b": 3}]
    assert it.changes == [True, False, True]
    assert dots(it.receiver.delivered)[-1] == ("b", 4)


@in_virtual_time
async def test_it_tries_again_ever_more_slowly() -> None:
    it = Setup()
    await it.run(60)
    pauses = [later - earlier for earlier, later in zip(it.times, it.times[1:], strict=False)]
    for number, pause in enumerate(pauses):
        longest = min(0.1 * 2**number, 2.0)
        assert longest / 2 <= pause <= longest + 0.001
    assert len(pauses) < 60
    assert "nobody there" in (it.status.last_error or "")


@in_virtual_time
async def test_a_link_that_worked_is_tried_again_at_once() -> None:
    it = Setup(saying(hello(), then=20))
    await it.run(20.5)
    assert it.times[1] - 20 <= 0.11


@in_virtual_time
async def test_silence_counts_as_a_break() -> None:
    it = Setup(saying(hello()))
    await it.run(3.5)
    assert not it.status.connected
    assert it.status.last_error == "nobody there"
    assert it.times[1] == pytest.approx(3.0, abs=0.11)


WITHOUT_ITS_SECTION = frames_for(
    "c", encode_frame(encoded("b", 1).entry, [Restricted(audience_of("a", "b"), (), bytes(16))])
)[0]
"""Region a is in the audience."""


@pytest.mark.parametrize(
    "chunk",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40),
        b"At\x01" + hello()[3:],
        hello()[:-1] + b"\x01",
        FrameWriter(b"x" * 32).heartbeat(Heartbeat("b", 1, {}, {})),
        hello(region="c"),
        WRITER.entries(encoded("mars", 1).frame),
        WRITER.entries(encoded("b", 1).frame[:-1] + b"\x00"),
        WRITER.entries(WITHOUT_ITS_SECTION),
    ],
    ids=[
        "protocol",
        "older wire",
        "damage",
        "key",
        "another region",
        "stranger's entry",
        "checksum",
        "section withheld",
    ],
)
@in_virtual_time
async def test_what_cannot_be_believed_is_refused_and_reported(chunk: bytes) -> None:
    it = Setup(saying(hello(), chunk), saying(hello(), entries("b", 1, 1)))
    await it.run(2)
    assert it.status.refused == 1
    assert dots(it.receiver.delivered) == [("b", 1)]
    assert it.status.connected


@in_virtual_time
async def test_a_peer_that_sends_nothing_good_is_not_asked_without_pause() -> None:
    it = Setup(*[saying(hello(), WRITER.entries(encoded("mars", 1).frame))] * 1000)
    await it.run(60)
    assert it.status.refused == len(it.peers.requests)
    assert len(it.peers.requests) < 60


@in_virtual_time
async def test_a_peer_that_refuses_the_link_says_why() -> None:
    async def refusing(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        raise HostileEntry("a wrong seal")
        yield b""

    it = Setup(refusing)
    await it.run(0.05)
    assert it.status.last_error == "a wrong seal"
    assert it.status.refused == 1


@in_virtual_time
async def test_relays_are_asked_for_when_others_are_down() -> None:
    it = Setup(saying(hello()), saying(hello(), entries("c", 1, 2)))

    async def lose_c() -> None:
        await asyncio.sleep(1)
        it.receiver.wanted = ("b", "a", "c")
        it.link.review()
        it.link.review()

    await asyncio.gather(it.run(2), lose_c())
    assert [request.origins for _, request in it.peers.requests] == [("b", "a"), ("b", "a", "c")]
    assert it.times[1] == pytest.approx(1.0)
    assert dots(it.receiver.delivered) == [("c", 1), ("c", 2)]
    assert it.status.relays == ("a", "c")


@in_virtual_time
async def test_a_review_that_changes_nothing_keeps_the_stream() -> None:
    it = Setup(saying(hello()))
    task = asyncio.create_task(it.run(2))
    await asyncio.sleep(1)
    it.link.review()
    await task
    assert len(it.peers.requests) == 1


@in_virtual_time
async def test_a_full_inbox_stops_the_reading() -> None:
    taken: list[int] = []

    async def counting(request: StreamRequest) -> AsyncGenerator[bytes, None]:
        yield hello()
        for seq in range(1, 100):
            taken.append(seq)
            yield entries("b", seq, seq)
        await asyncio.Event().wait()

    it = Setup(counting)
    it.receiver.open.clear()
    task = asyncio.create_task(it.run(10))
    await asyncio.sleep(1)
    assert taken == []
    it.receiver.open.set()
    await asyncio.sleep(1)
    await turns()
    assert len(taken) == 99
    await task


@in_virtual_time
async def test_a_link_that_waits_for_room_is_not_silent() -> None:
    it = Setup(saying(hello(), entries("b", 1, 1)))
    it.receiver.open.clear()
    task = asyncio.create_task(it.run(10.5))
    await asyncio.sleep(10)
    it.receiver.open.set()
    await task
    assert len(it.peers.requests) == 1


@in_virtual_time
async def test_a_cancelled_link_leaves_nothing_running() -> None:
    it = Setup(saying(hello()))
    await it.run(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_a_peer_that_asks_for_something_is_asked_without_waiting() -> None:
    it = Setup()
    heard = asyncio.get_running_loop().call_at(30.0, it.link.reachable)
    await it.run(31)
    assert 30.0 in it.times
    heard.cancel()


@in_virtual_time
async def test_a_peer_that_only_asks_and_never_answers_does_not_undo_the_pauses() -> None:
    quiet, asked = Setup(), Setup()
    await quiet.run(60)
    begun = asyncio.get_running_loop().time()

    async def asks() -> None:
        while asyncio.get_running_loop().time() < begun + 60:
            asked.link.reachable()
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(asks())
    await asked.run(60)
    await asking
    assert len(asked.times) <= 2 * len(quiet.times)


@in_virtual_time
async def test_a_journal_that_begins_later_is_reported_and_heartbeats_go_on() -> None:
    it = Setup(saying(hello(), WRITER.begins(JournalBegins({"b": 7})), hello({"b": 9})))
    await it.run(1.0)
    assert it.receiver.late == [("b", {"b": 7})]
    assert [each.vector for each in it.receiver.heartbeats] == [{}, {"b": 9}]
    assert it.status.connected


@in_virtual_time
async def test_origins_that_others_pull_again_are_left_to_them_later() -> None:
    it = Setup(saying(hello()), saying(hello()))
    it.receiver.wanted = ("b", "a", "c")

    async def c_is_back() -> None:
        await asyncio.sleep(1)
        for at in range(10):  # one link after the other comes up
            it.receiver.wanted = ("b", "a") if at % 2 else ("b",)
            it.link.review()
            await asyncio.sleep(0.05)

    await asyncio.gather(it.run(4), c_is_back())
    assert [request.origins for _, request in it.peers.requests] == [("b", "a", "c"), ("b", "a")]
    assert it.times[1] == pytest.approx(2.0)


@in_virtual_time
async def test_a_link_that_is_to_bring_nothing_ends_at_once() -> None:
    it = Setup(saying(hello()), saying(hello()))

    async def held_by_another() -> None:
        await asyncio.sleep(1)
        it.receiver.wanted = ()
        it.link.review()

    await asyncio.gather(it.run(2), held_by_another())
    assert it.times[1] == pytest.approx(1.0)
