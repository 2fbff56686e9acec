"""Whether a region and its peers mean the same by its entries.

A region may have given some numbers out twice. Then its database is a copy of an abandoned history, or two servers
wrote to it at once. Its own entry of such a number is another than the one that peers hold. No merge mends that, so it
must be found before the region takes part again. If the last entry that both have is the same, so are all before it,
since each history only ever grew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from atoll.documents.entry import decode_frames, digest_of
from atoll.replication.messages import EntryCall, EntryReply
from atoll.store.port import Journal


async def entry_digest(store: Journal, origin: str, seq: int) -> bytes | None:
    """Of one entry as it was written; None where the journal does not hold it (any more)."""
    segment = await store.segment(origin, seq)
    if segment is None:
        return None
    for encoded in decode_frames(segment.body):
        if encoded.entry.seq == seq:
            return digest_of(encoded.frame)
    return None


_ABANDONED = (
    "the data here are of a history that was abandoned. Restore a newer backup, or let the region start with an empty "
    "store and get everything from its peers"
)
"""Ends a fault."""


async def forked_entry(
    store: Journal,
    own: Mapping[str, int],
    ends: Mapping[str, int],
    held: Mapping[str, Mapping[str, int]],
    ask: Callable[[str, EntryCall, type[EntryReply]], Awaitable[EntryReply]],
) -> str:
    """What is wrong between a region, whose origins stood at `own`, and the peers that hold so much; empty for nothing.

    Raises what `ask`, which asks a peer for its digest of an entry, and the store raise.
    """
    for origin, last in own.items():
        if last > ends.get(origin, last):
            return f"entry {last} of {origin} was given up, when the region went on after {ends[origin]}: {_ABANDONED}"
    for peer, vector in sorted(held.items()):
        for origin, last in own.items():
            seq = min(last, vector.get(origin, 0))
            here = await entry_digest(store, origin, seq) if seq else None
            if here is None:
                continue
            there = (await ask(peer, EntryCall(origin, seq), EntryReply)).digest
            if there is not None and there != here:
                return f"entry {seq} of {origin} is another one at {peer}: {_ABANDONED}"
    return ""
