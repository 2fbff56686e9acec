"""The part of the Yjs update format that texts and lists use, checked before the library sees it.

Update format 1: github.com/yjs/yjs `src/utils/encoding.js` and `src/structs/`. The library
allocates what counts claim and recurses into nested content. Four bytes made it touch half a gigabyte, and a
megabyte of nested arrays overflowed its stack. Neither can be caught, so only flat, named content is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    made = [b"\x01", _number(structs), _number(client), _number(clock)]
    for run in runs:
        begin = cursor.at
        _check_place(cursor, cursor.byte())
        made.append(update[begin : cursor.at])
        assert (cursor.number(), cursor.byte()) == (1, _ANY_STRING), "one string is inserted"
        cursor.string()
        made.append(_number(len(run)))
        for text in run:
            data = text.encode()
            made += (b"\x77", _number(len(data)), data)
    made.append(update[cursor.at :])
    return b"".join(made)


def _number(number: int) -> bytes:
    """As `Cursor.number` reads it."""
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _check_place(cursor: Cursor, info: int) -> None:
    """Read between what an insertion stands."""
    for neighbour in (0x80, 0x40):
        if info & neighbour:
            cursor.number(), cursor.number()
    if not info & 0xC0 and (cursor.number() != 1 or cursor.string() or info & 0x20):
        raise ValueError("an insertion is not in the one sequence")


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
