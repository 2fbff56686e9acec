from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.entry import (
    UNREADABLE,
    Change,
    Entry,
    LosingVersion,
    decode_frames,
    encode_frame,
    frame_of,
    frames_past,
)
from atoll.errors import CorruptEntry, HostileEntry, ReplicationError

CHANGE = Change(
    "cart", "k", 1, {"": b"{}", "note": None}, {"items": b"\x80"}, (LosingVersion("id", "resolved", b"{}"),)
)
names = st.text(min_size=1, max_size=8)


def entry(number: int, **changes: Any) -> Entry:
    context = {"a": number - 1, "b": 9} if number > 1 else {"b": 9}
    known = {"seq": number, "stamp": 7 << 16, "uncertainty_ms": 5, "context": context, "changes": (CHANGE,)}
    return Entry(**{"origin": "a", **known, **changes})


def encoded(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


FRAMES = [encode_frame(entry(number)) for number in (1, 2, 3)]
BODY = b"".join(FRAMES)


@given(st.lists(st.builds(Change, names, names, st.integers(0, 2), st.dictionaries(names, st.binary()))))
def test_entries_come_out_as_they_went_in(changes: list[Change]) -> None:
    sent = entry(4, changes=tuple(changes), trace=bytes(range(26)))
    (encoded,) = decode_frames(encode_frame(sent))
    assert encoded.entry == sent
    assert encoded.frame == encode_frame(sent)


def test_a_damaged_byte_is_found_wherever_it_is() -> None:
    for at in range(len(BODY)):
        damaged = bytearray(BODY)
        damaged[at] ^= 0x10
        with pytest.raises(CorruptEntry):
            list(decode_frames(bytes(damaged)))


def test_a_body_cut_short_is_corrupt_unless_cut_between_frames() -> None:
    ends = [0]
    for frame in FRAMES:
        ends.append(ends[-1] + len(frame))
    for length in range(len(BODY)):
        if length in ends:
            assert len(list(decode_frames(BODY[:length]))) == ends.index(length)
        else:
            with pytest.raises(CorruptEntry):
                list(decode_frames(BODY[:length]))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 0, "context": {}},
        {"seq": -1, "context": {}},
        {"seq": 1 << 53, "context": {"a": (1 << 53) - 1}},
        {"stamp": -1},
        {"stamp": 1 << 63},
        {"origin": ""},
        {"context": {}},
        {"context": {"a": 3}},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_hostile(changes: dict[str, Any]) -> None:
    with pytest.raises(HostileEntry):
        list(decode_frames(encode_frame(entry(3, **changes))))


@given(st.binary(max_size=80))
def test_any_well_framed_bytes_are_refused_as_hostile(payload: bytes) -> None:
    with pytest.raises(HostileEntry):
        list(decode_frames(encoded(payload)))


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_replication_errors(body: bytes) -> None:
    with contextlib.suppress(ReplicationError):
        list(decode_frames(body))


def test_nesting_without_end_is_hostile() -> None:
    with pytest.raises(HostileEntry):
        list(decode_frames(encoded(b"\x91" * 100_000)))


@pytest.mark.parametrize("seq", range(5))
def test_the_frames_past_a_position(seq: int) -> None:
    assert [each.entry.seq for each in decode_frames(frames_past(BODY, seq))] == list(range(seq + 1, 4))


def test_an_older_entry_without_newer_members_is_read() -> None:
    payload = msgspec.msgpack.encode(["a", 1, 5, 5, {}, [["cart", "k", 0, {}]]])
    (found,) = decode_frames(encoded(payload))
    assert found.entry.changes[0] == Change("cart", "k", 0, {})
    assert found.entry.trace is None


def test_changes_that_cannot_be_read_keep_their_place() -> None:
    parts = ["a", 1, 7, 5, {}, [[1, 2]], None]
    (found,) = decode_frames(frame_of(msgspec.msgpack.encode(parts)))
    (change,) = found.entry.changes
    assert (found.entry.origin, found.entry.seq, change.operation) == ("a", 1, UNREADABLE)
    assert msgspec.msgpack.decode(change.deltas[""]) == [[1, 2]]
