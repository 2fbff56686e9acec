"""Resets: what is left of an update once all that was seen of a sequence is gone (see `yjs`)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping

from atoll.lattices.update_format import (
    ANY,
    DELETED,
    GARBAGE,
    SKIP,
    STRING,
    Cursor,
    Id,
    Struct,
    structs_of,
    update_of,
    varint,
)

Reset = Mapping[int, int]
"""Client → how many of its insertions were all of the sequence when it was emptied. Nothing of them is kept."""

_MOST_CLOCK = 2**31
"""A larger one is refused."""


def with_reset(reset: Reset, update: bytes) -> bytes:
    """Both together. An update that is nothing ends with its second byte, so nothing else begins like this."""
    if not reset:
        return update
    pairs = [varint(part) for pair in sorted(reset.items()) for part in pair]
    return b"".join((b"\0\0", varint(len(reset)), *pairs, update))


def split(data: bytes) -> tuple[Reset, bytes]:
    """The reset and the update that `with_reset` joined. ValueError, IndexError for what it never wrote."""
    if data[:2] != b"\0\0" or len(data) == 2:
        return {}, data
    cursor = Cursor(data)
    cursor.at = 2
    reset: dict[int, int] = {}
    for _ in range(cursor.positive()):
        client, clock = cursor.number(), cursor.positive()
        if clock > _MOST_CLOCK or (reset and client <= next(reversed(reset))):
            raise ValueError("a reset is not one that any region would write")
        reset[client] = clock
    return reset, data[cursor.at :]


def cleared(reset: Reset) -> bytes:
    """An update in which the insertions are there, and gone."""
    return update_of(
        [Struct(client, 0, clock, GARBAGE) for client, clock in sorted(reset.items())],
        [(client, 0, clock) for client, clock in sorted(reset.items())],
    )


def reaches(update: bytes, reset: Reset) -> bool:
    """Whether anything in the update is of what the reset covers, or was inserted beside it."""
    return any(
        struct.kind != GARBAGE and (_within(reset, (struct.client, struct.clock)) or _beside(struct, reset))
        for struct in structs_of(update)[0]
    )


def _within(reset: Reset, place: Id | None) -> bool:
    return place is not None and place[1] < reset.get(place[0], 0)


def _beside(struct: Struct, reset: Reset) -> bool:
    return _within(reset, struct.left) or _within(reset, struct.right)


def covers(update: bytes, reset: Reset) -> bool:
    """Whether the update holds insertions of what the reset covers, or deletions."""
    structs, deletions = structs_of(update)
    return bool(deletions) or any(_within(reset, (struct.client, struct.clock)) for struct in structs)


def beyond(update: bytes, reset: Reset) -> bytes:
    """What of an update a reset leaves, without content that was deleted."""
    structs, deletions = structs_of(update)
    left = [
        (client, max(start, reset.get(client, 0)), end)
        for client, start, end in deletions
        if end > reset.get(client, 0)
    ]
    gone: dict[int, list[int]] = defaultdict(list)
    for client, start, end in sorted(left):
        gone[client] += (start, end)
    kept = []
    for struct in structs:
        at = max(struct.clock, reset.get(struct.client, 0))
        edges = gone[struct.client]
        while at < struct.end:
            index = bisect_right(edges, at)
            end = min(struct.end, edges[index] if index < len(edges) else struct.end)
            part = struct if end - at == struct.size else struct.part(at, end)
            if index % 2 and part.kind in (STRING, ANY):
                part = part._replace(kind=DELETED, content="")
            kept.append(part)
            at = end
    return update_of(kept, left)


def rerooted(update: bytes, reset: Reset) -> bytes:
    """The update with new places for what was inserted beside something that a reset has covered since.

    Each insertion becomes a child of a neighbour that is left, on its right or on its left. One that has none begins
    the sequence by itself. So the order follows from the insertions alone, whatever a region heard first.

    An editor who sees no more than an insertion refers to would have made it at this place. Yjs orders such insertions
    alike everywhere. (Weidner and Kleppmann, "The art of the fugue: minimizing interleaving", 2023.)
    """
    structs, deletions = structs_of(update)
    placed: dict[int, list[Struct]] = defaultdict(list)
    starts: dict[int, list[int]] = defaultdict(list)

    def holder(place: Id) -> Struct | None:
        index = bisect_right(starts[place[0]], place[1]) - 1
        if index < 0 or place[1] >= placed[place[0]][index].end:
            return None
        found = placed[place[0]][index]
        return None if found.kind == SKIP else found  # a gap, whose insertions are still to come

    def moved(struct: Struct) -> Struct | None:
        """None where a neighbour is not there yet."""
        left = None if _within(reset, struct.left) else struct.left
        right = None if _within(reset, struct.right) else struct.right
        before, after = left and holder(left), right and holder(right)
        if (left and not before) or (right and not after):
            return None
        if right and after:
            origin = after.left if right[1] == after.clock else (right[0], right[1] - 1)
            if not left or origin == left:
                return struct._replace(left=origin, right=right)
        return struct._replace(left=left, right=before.right if before else None)

    waiting: dict[int, deque[Struct]] = defaultdict(deque)
    for struct in structs:
        waiting[struct.client].append(struct)
    clients = list(waiting)
    found = True
    while found:
        found = False
        for client in clients:
            queue = waiting[client]
            while queue and (there := moved(queue[0])) is not None:
                placed[client].append(there)
                starts[client].append(there.clock)
                queue.popleft()
                found = True
    return update_of((each for client in clients for each in (*placed[client], *waiting[client])), deletions)
