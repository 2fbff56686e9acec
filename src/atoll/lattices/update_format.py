"""The part of the Yjs update format that texts and lists use, checked before the library sees it.

Update format 1: github.com/yjs/yjs `src/utils/encoding.js` and `src/structs/`. The library
allocates what counts claim and recurses into nested content. Four bytes made it touch half a gigabyte, and a
megabyte of nested arrays overflowed its stack. Neither can be caught, so only flat, named content is accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
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
