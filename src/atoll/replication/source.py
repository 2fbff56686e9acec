"""The sending side of a link: a region's journal as a stream of frames, for one peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

from atoll.causality.floor import origins_in
from atoll.causality.origin import region_of
from atoll.causality.vector import missing
from atoll.documents.entry import frames_for, frames_past, has_sections
from atoll.replication.beside import beside_loop
from atoll.replication.messages import StreamRequest
from atoll.replication.signal import Signal
from atoll.replication.wire import FrameWriter, Heartbeat, JournalBegins
from atoll.schema.bounds import BESIDE_BYTES, SEGMENT_BYTES
from atoll.store.port import Journal, Numbered, Segment

_HEARSAY_MS = 1000
"""How far what a peer hears of others must have moved on before it is told that again."""


class Wanted:
    """Whose entries a stream carries: origins, and regions that stand for all their incarnations."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._without: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, origin: str) -> bool:
        return (origin in self._names or region_of(origin) in self._names) and origin not in self._without

    def discard(self, origin: str) -> None:
        self._without.add(origin)

    def clear(self) -> None:
        self._names.clear()


async def start_of(store: Journal, vector: Mapping[str, int], wanted: Wanted | None = None) -> int:
    """The id of the segment after which all of the wanted origins lie that `vector` does not cover; None for all."""
    tail = await store.journal_start(vector, ())  # an incarnation that begins meanwhile lies behind it
    held = origins_in(await store.positions())
    origins = [origin for origin in held if wanted is None or origin in wanted]
    return min(tail, await store.journal_start(vector, origins))


async def stream(
    store: Journal,
    request: StreamRequest,
    committed: Signal,
    heartbeat: Callable[[], Awaitable[Heartbeat]],
    writer: FrameWriter,
    *,
    heartbeat_s: float,
) -> AsyncIterator[bytes]:
    """Yield what the peer does not have, in this region's commit order, for ever.

    Commit order is a causal order, so one stream alone never leaves an entry without its past. The
    consumer sets the pace: nothing is read from the journal before the last piece was taken.

    Nothing is skipped in silence. The journal may not hold what comes next of an origin, because it was truncated, or
    because the region installed a snapshot. Then the peer is told, and gets heartbeats only.
    """
    wanted = Wanted(request.origins)
    sent = dict(request.vector)
    after_id = await start_of(store, sent, wanted)
    loop = asyncio.get_running_loop()
    told = _Told(wanted)
    now = await heartbeat()
    yield writer.heartbeat(told.news_in(now))
    due_s = loop.time() + heartbeat_s
    while True:
        if loop.time() >= due_s:  # a stream that is never idle must say it, too
            now = await heartbeat()
            yield writer.heartbeat(told.news_in(now))
            due_s = loop.time() + heartbeat_s
        if not wanted:  # another node of the peer's region pulls; this one wants to know how far we are
            await asyncio.sleep(due_s - loop.time())
            continue
        seen = committed.count
        numbered = await store.journal(after_id, limit_bytes=SEGMENT_BYTES)
        after_id, chunk, gone = batch_for(numbered, after_id, wanted, sent, request.region)
        if not numbered:
            # Then all that was here at the last heartbeat has been sent, or is not in the journal.
            gone = {o: seq for o, seq in origins_in(missing(sent, now.vector)).items() if o in wanted}
        if chunk:
            frames = b"".join(chunk)
            if len(frames) <= BESIDE_BYTES:
                yield writer.entries(frames)
            else:
                yield await beside_loop(writer.entries, frames)
        if gone:
            yield writer.begins(JournalBegins(gone))
            wanted.clear()
        if numbered or gone:
            continue
        if committed.count == seen:
            try:
                async with asyncio.timeout_at(due_s):
                    await committed.wait()
            except TimeoutError:
                due_s = loop.time()


def batch_for(
    numbered: Sequence[Numbered], after_id: int, wanted: Wanted, sent: dict[str, int], peer: str
) -> tuple[int, list[bytes], dict[str, int]]:
    """(id of the last segment looked at, bodies for the peer, origin → what the journal lacks up to).

    Moves `sent` on, and takes origins off `wanted` that this stream goes on without.
    """
    chunk: list[bytes] = []
    for id_, segment in numbered:
        after_id = id_
        have = sent.get(segment.origin, 0)
        if segment.origin not in wanted or segment.last_seq <= have:
            continue
        if segment.first_seq > have + 1:
            return after_id, chunk, {segment.origin: segment.first_seq - 1}
        body, sent[segment.origin] = _for_peer(segment, have, peer)
        chunk.append(body)
        if sent[segment.origin] < segment.last_seq:
            # The peer asks others, too, and has what depends on this wait: the stream goes on without the origin.
            wanted.discard(segment.origin)
    return after_id, chunk, {}


def _for_peer(segment: Segment, have: int, peer: str) -> tuple[bytes, int]:
    """What the peer lacks of it and may hold, and the last seq of that.

    It ends before an entry of which a section that the peer must have is not here.
    """
    body = segment.body if segment.first_seq > have else frames_past(segment.body, have)
    if not has_sections(body):
        return body, segment.last_seq
    body, incomplete = frames_for(peer, body)
    return body, segment.last_seq if incomplete is None else incomplete - 1


class _Told:
    """What the peer knows of this region's state.

    If every heartbeat carried the whole of it, an idle deployment's traffic would grow with the cube of its regions.
    Every moment comes with the seq that it stands for, so a heartbeat that overtakes another claims nothing
    too early.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._vector: dict[str, int] = {}
        self._fresh: dict[str, int] = {}
        self._closed: dict[str, int] = {}

    def news_in(self, now: Heartbeat) -> Heartbeat:
        fresh = {
            region: moment
            for region, moment in now.fresh.items()
            if region in self._wanted or moment >= self._fresh.get(region, 0) + _HEARSAY_MS
        }
        vector = {
            origin: seq
            for origin, seq in now.vector.items()
            if self._vector.get(origin) != seq
            or origin in self._wanted
            or (region := region_of(origin)) in fresh
            or region == now.region
        }
        closed = {} if now.closed == self._closed else now.closed
        self._fresh |= fresh
        self._vector |= vector
        self._closed = now.closed
        return Heartbeat(now.region, now.now_ms, vector, fresh, closed, now.whole)
