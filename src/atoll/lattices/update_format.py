"""The part of the Yjs update format that texts and lists use, checked before the library sees it.

Update format 1: github.com/yjs/yjs `src/utils/encoding.js` and `src/structs/`. The library
allocates what counts claim and recurses into nested content. Four bytes made it touch half a gigabyte, and a
megabyte of nested arrays overflowed its stack. Neither can be caught, so only flat, named content is accepted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

GARBAGE, DELETED, STRING, ANY, SKIP = 0, 1, 4, 8, 10
_ANY_STRING = 0x77
_MAX_NUMBER = 2**53


def check_update(data: bytes, content: int, check: Callable[[str], object]) -> frozenset[int]:
    """The clients whose insertions `data` holds. ValueError unless it is an update of one kind of content:
    STRING, or ANY that is strings.

    `check` is called with each string and raises ValueError too. Time is linear in the bytes.
    """
    try:
        cursor = Cursor(data)
        clients = set()
        for _ in range(cursor.number()):
            structs, client, _clock = cursor.number(), cursor.number(), cursor.number()
            clients.add(client)
            for _ in range(structs):
                _check_struct(cursor, content, check)
        for _ in cursor.deletions():
            pass
    except IndexError:
        raise ValueError("the update is cut short") from None
    if cursor.at != len(data):
        raise ValueError("bytes follow the update")
    return frozenset(clients)


class Cursor:
    """Reads bytes; IndexError past their end."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def number(self) -> int:
        """A number of up to 53 bits, seven a byte, lowest first."""
        byte = self.data[self.at]
        self.at += 1
        if byte < 0x80:
            return byte
        number, shift = byte & 0x7F, 7
        while shift <= 49:
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number > _MAX_NUMBER:
                    break
                return number
            shift += 7
        raise ValueError("a number has more than 53 bits")

    def positive(self) -> int:
        number = self.number()
        if not number:
            raise ValueError("a length is zero")
        return number

    def string(self) -> str:
        size = self.number()
        end = self.at + size
        if end > len(self.data):
            raise IndexError
        text = self.data[self.at : end].decode()
        self.at = end
        return text

    def deletions(self) -> Iterator[tuple[int, int, int]]:
        """(client, first clock, end) of each deleted range."""
        for _ in range(self.number()):
            client = self.number()
            for _ in range(self.number()):
                start = self.number()
                yield client, start, start + self.positive()


Id = tuple[int, int]
"""A client, and a clock of it."""


class Struct(NamedTuple):
    """A run of insertions that follow each other, one for each clock from `clock` on; GARBAGE and SKIP are none."""

    client: int
    clock: int
    size: int
    kind: int
    left: Id | None = None
    """Between what the run was inserted."""
    right: Id | None = None
    content: str | tuple[str, ...] = ""

    @property
    def end(self) -> int:
        return self.clock + self.size

    def part(self, start: int, end: int) -> Struct:
        """What of the run has these clocks."""
        left = self.left if start <= self.clock else (self.client, start - 1)
        first, last = max(start - self.clock, 0), min(end, self.end) - self.clock
        content: str | tuple[str, ...]
        if isinstance(self.content, str):  # Yjs counts UTF-16 here
            content = self.content.encode("utf-16-le")[2 * first : 2 * last].decode("utf-16-le", "replace")
        else:
            content = self.content[first:last]
        return Struct(self.client, self.clock + first, last - first, self.kind, left, self.right, content)


def structs_of(update: bytes) -> tuple[list[Struct], list[tuple[int, int, int]]]:
    """The structs of a checked update, and its deletions: (client, first clock, end)."""
    cursor, structs = Cursor(update), []
    for _ in range(cursor.number()):
        count, client, clock = cursor.number(), cursor.number(), cursor.number()
        for _ in range(count):
            info = cursor.byte()
            kind = info & 0x1F
            left, right = (None, None) if info in (GARBAGE, SKIP) else _check_place(cursor, info)
            content: str | tuple[str, ...] = ""
            if kind == STRING:
                content = cursor.string()
                size = len(content) if content.isascii() else len(content.encode("utf-16-le")) // 2
            elif kind == ANY:
                content = tuple((cursor.byte(), cursor.string())[1] for _ in range(cursor.number()))
                size = len(content)
            else:
                size = cursor.number()
            structs.append(Struct(client, clock, size, kind, left, right, content))
            clock += size
    return structs, list(cursor.deletions())


def update_of(structs: Iterable[Struct], deletions: Iterable[tuple[int, int, int]]) -> bytes:
    """The update of structs whose clocks ascend for each client."""
    clients: dict[int, list[Struct]] = defaultdict(list)
    for struct in structs:
        known = clients[struct.client]
        if known and struct.clock > known[-1].end:
            known.append(Struct(struct.client, known[-1].end, struct.clock - known[-1].end, SKIP))
        known.append(struct)
    made = [varint(len(clients))]
    for client, known in clients.items():
        made += (varint(len(known)), varint(client), varint(known[0].clock), *map(_encoded, known))
    ranges: dict[int, list[bytes]] = defaultdict(list)
    for client, start, end in deletions:
        ranges[client].append(varint(start) + varint(end - start))
    made.append(varint(len(ranges)))
    for client, each in ranges.items():
        made += (varint(client), varint(len(each)), *each)
    return b"".join(made)


def _encoded(struct: Struct) -> bytes:
    kind, left, right, content = struct.kind, struct.left, struct.right, struct.content
    if kind in (GARBAGE, SKIP):
        return bytes((kind,)) + varint(struct.size)
    made = [bytes((kind | (0x80 if left else 0) | (0x40 if right else 0),))]
    made += [varint(part) for place in (left, right) if place for part in place]
    if not (left or right):
        made.append(b"\x01\0")  # in the one sequence
    if isinstance(content, tuple):
        made += (varint(len(content)), *(b"\x77" + _string(text) for text in content))
    else:
        made.append(varint(struct.size) if kind == DELETED else _string(content))
    return b"".join(made)


def _string(text: str) -> bytes:
    data = text.encode()
    return varint(len(data)) + data


# -- resets ----------------------------------------------------------------------------------------------

Reset = Mapping[int, int]
"""Client → how many of its insertions were all of the sequence when it was emptied. Nothing of them is kept."""


_MOST_CLOCK = 2**31


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
            part = struct.part(at, end)
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
        return placed[place[0]][index]

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


def with_runs(update: bytes, runs: Sequence[Sequence[str]]) -> bytes:
    """Put a run of strings in the place of each string that one client has inserted, in the order of its clock.

    The library inserts elements one by one, and walks past those before them each time. One insertion of a run takes
    one step, and one struct. No insertion may stand beside another.
    """
    cursor = Cursor(update)
    if not cursor.number():
        return update  # deletions alone
    structs, client, clock = cursor.number(), cursor.number(), cursor.number()
    assert structs == len(runs), "one insertion a run"
    made = [b"\x01", varint(structs), varint(client), varint(clock)]
    for run in runs:
        begin = cursor.at
        _check_place(cursor, cursor.byte())
        made.append(update[begin : cursor.at])
        assert (cursor.number(), cursor.byte()) == (1, _ANY_STRING), "one string is inserted"
        cursor.string()
        made.append(varint(len(run)))
        for text in run:
            made.append(b"\x77" + _string(text))
    made.append(update[cursor.at :])
    return b"".join(made)


def varint(number: int) -> bytes:
    """As `Cursor.number` reads it."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _check_place(cursor: Cursor, info: int) -> tuple[Id | None, Id | None]:
    """Read between what an insertion stands."""
    left = (cursor.number(), cursor.number()) if info & 0x80 else None
    right = (cursor.number(), cursor.number()) if info & 0x40 else None
    if not info & 0xC0 and (cursor.number() != 1 or cursor.string() or info & 0x20):
        raise ValueError("an insertion is not in the one sequence")
    return left, right


def _check_struct(cursor: Cursor, content: int, check: Callable[[str], object]) -> None:
    info = cursor.byte()
    kind = info & 0x1F
    if info in (GARBAGE, SKIP):
        cursor.positive()
        return
    _check_place(cursor, info)
    if kind == DELETED:
        cursor.positive()
    elif kind != content:
        raise ValueError(f"content of kind {kind} is not allowed here")
    elif kind == STRING:
        check(cursor.string())
    else:
        for _ in range(cursor.positive()):
            if cursor.byte() != _ANY_STRING:
                raise ValueError("an element is not a string")
            check(cursor.string())
