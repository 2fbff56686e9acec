"""The sending side of a link: a region's journal as a stream of frames, for one peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from atoll.core.entry import frames_past
from atoll.region.peers import StreamRequest
from atoll.region.signal import Signal
from atoll.replication.wire import FrameWriter, Heartbeat
from atoll.store.port import Segment, Store

_BATCH_BYTES = 1 << 20


async def stream(
    store: Store,
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
    """
    wanted = set(request.origins)
    sent = dict(request.vector)
    after_id = await store.journal_start(sent, sorted(wanted))
    loop = asyncio.get_running_loop()
    yield writer.heartbeat(await heartbeat())
    due_s = loop.time() + heartbeat_s
    while True:
        if loop.time() >= due_s:  # a stream that is never idle must say it, too
            yield writer.heartbeat(await heartbeat())
            due_s = loop.time() + heartbeat_s
        if not wanted:  # another node of the peer's region pulls; this one wants to know how far we are
            await asyncio.sleep(due_s - loop.time())
            continue
        seen = committed.count
        piece: list[bytes] = []
        numbered = await store.journal(after_id, limit_bytes=_BATCH_BYTES)
        for id_, segment in numbered:
            after_id = id_
            fresh = _fresh(segment, wanted, sent)
            if fresh:
                piece.append(fresh)
                sent[segment.origin] = segment.last_seq
        if piece:
            yield writer.entries(b"".join(piece))
            continue
        if numbered:
            continue
        if committed.count == seen:
            try:
                async with asyncio.timeout_at(due_s):
                    await committed.wait()
            except TimeoutError:
                due_s = loop.time()


def _fresh(segment: Segment, wanted: set[str], sent: Mapping[str, int]) -> bytes:
    have = sent.get(segment.origin, 0)
    if segment.origin not in wanted or segment.last_seq <= have:
        return b""
    return segment.body if segment.first_seq > have else frames_past(segment.body, have)
