from __future__ import annotations

import contextlib
import struct
import zlib
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.types import EVERYONE, Ballot, Epoch, RegionName
from atoll.documents.entry import (
    FORMAT,
    UNREADABLE,
    Change,
    EncodedEntry,
    Entry,
    Extension,
    LosingVersion,
    Restricted,
    Section,
    audience_of,
    decode_frames,
    digest_of,
    encode_frame,
    frame_of,
    frames_for,
    frames_past,
    has_sections,
    lacks,
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
    payload = msgspec.msgpack.encode([FORMAT, "a", 1, 5, 5, {}, [["cart", "k", 0, {}]]])
    (found,) = decode_frames(encoded(payload))
    assert found.entry.changes[0] == Change("cart", "k", 0, {})
    assert found.entry.trace is None


@pytest.mark.parametrize("number", [1, 3])
def test_an_entry_of_another_format_is_hostile(number: int) -> None:
    with pytest.raises(HostileEntry):
        list(decode_frames(encoded(msgspec.msgpack.encode([number, "a", 1, 7, 5, {}, []]))))
    with pytest.raises(HostileEntry):  # as format 1 had it
        list(decode_frames(encoded(msgspec.msgpack.encode(["a", 1, 7, 5, {}, [], None]))))


def test_a_header_has_room_for_what_comes() -> None:
    extension = Extension((), Epoch(3), Ballot(7, RegionName("b")), b"revision", b"key")
    sent = entry(4, extension=extension)
    (found,) = decode_frames(encode_frame(sent))
    assert found.entry == sent


def test_the_usual_entry_pays_two_bytes_for_the_header() -> None:
    """Its format and extension; the rest is what an entry must hold anyway."""
    bare = ["a", 4, 7 << 16, 5, {"a": 3, "b": 9}, [["cart", "k", 1, {"": b"{}"}, {}, []]], None]
    sent = entry(4, changes=(Change("cart", "k", 1, {"": b"{}"}),))
    assert len(encode_frame(sent)) == 8 + len(msgspec.msgpack.encode(bare)) + 2


def test_changes_that_cannot_be_read_keep_their_place() -> None:
    parts = [FORMAT, "a", 1, 7, 5, {}, [[1, 2]], None]
    (found,) = decode_frames(frame_of(msgspec.msgpack.encode(parts)))
    (change,) = found.entry.changes
    assert (found.entry.origin, found.entry.seq, change.operation) == ("a", 1, UNREADABLE)
    assert msgspec.msgpack.decode(change.deltas[""]) == [[1, 2]]


# -- sections ------------------------------------------------------------------------------------------


def secret(text: str) -> Change:
    return Change("patient", text, 1, {"": b'{"name":"%s"}' % text.encode()})


PARTS = (
    Restricted(audience_of("b", "a"), (secret("ann"), secret("bob")), b"1" * 16),
    Restricted(audience_of("c", "a", "c"), (secret("cid"),), b"2" * 16),
    Restricted(EVERYONE, (secret("dan"),), b"3" * 16),
)
SECTIONED = encode_frame(entry(4), PARTS)


def decoded(frame: bytes) -> EncodedEntry:
    (found,) = decode_frames(frame)
    return found


def for_region(region: str, frame: bytes = SECTIONED) -> EncodedEntry:
    frames, incomplete = frames_for(region, frame)
    assert incomplete is None
    return decoded(frames)


def keys(encoded: EncodedEntry) -> list[str]:
    return [change.key for change in encoded.entry.changes]


@pytest.mark.parametrize(
    ("region", "held", "withheld"),
    [
        ("a", ["k", "ann", "bob", "cid", "dan"], ()),
        ("b", ["k", "ann", "bob", "dan"], (("a", "c"),)),
        ("c", ["k", "cid", "dan"], (("a", "b"),)),
        ("d", ["k", "dan"], (("a", "b"), ("a", "c"))),
    ],
)
def test_a_region_gets_the_sections_that_it_may_hold(
    region: str, held: list[str], withheld: tuple[tuple[str, ...], ...]
) -> None:
    found = for_region(region)
    assert (keys(found), found.withheld) == (held, withheld)
    assert (found.entry.origin, found.entry.seq, found.entry.context) == ("a", 4, {"a": 3, "b": 9})
    for key in ("ann", "bob", "cid", "dan"):
        assert (key.encode() in found.frame) == (key in held)
    assert digest_of(found.frame) == digest_of(SECTIONED)
    assert not lacks(found, region)


def test_a_relay_passes_on_what_it_holds_and_nothing_halfway() -> None:
    held = for_region("b").frame
    assert for_region("d", held).frame == for_region("d").frame
    assert frames_for("c", FRAMES[0] + held + FRAMES[2]) == (FRAMES[0], 4)
    assert lacks(for_region("b"), "c")


def test_an_audience_is_a_set_of_regions() -> None:
    assert audience_of("b", "a", "b") == audience_of("a", "b") == ("a", "b")
    with pytest.raises(ValueError, match="nobody"):
        audience_of()


@pytest.mark.parametrize("audience", [(), ("b", "a"), ("a", "a")])
def test_an_audience_that_is_none_is_hostile(audience: tuple[RegionName, ...]) -> None:
    with pytest.raises(HostileEntry, match="no set of regions"):
        decoded(encode_frame(entry(4), [Restricted(audience, (secret("x"),), bytes(16))]))


@pytest.mark.parametrize("region", "abcd")
def test_a_damaged_byte_of_a_section_is_found_wherever_it_is(region: str) -> None:
    frame = for_region(region).frame
    for at in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[at] ^= 1 << bit
            with pytest.raises(ReplicationError):
                list(decode_frames(bytes(damaged)))
        with pytest.raises(CorruptEntry):
            list(decode_frames(frame[:at] or b"\0"))


def test_a_section_that_cannot_be_read_keeps_its_place() -> None:
    (part,) = (Restricted(audience_of("a"), (secret("x"),), bytes(16)),)
    frame = encode_frame(entry(4), [part])
    rubbish = part.salt + b"\xc1" * (len(frame) - len(for_region("b", frame).frame) - 16)
    section = Section(part.audience, len(rubbish), blake2b(rubbish, digest_size=16).digest())
    head = msgspec.msgpack.encode(entry(4, extension=Extension((section,))))
    body = struct.pack("<I", len(head)) + head + b"\x01" + rubbish
    found = decoded(struct.pack("<II", len(body) | 1 << 31, zlib.crc32(head)) + body)
    first, second = found.entry.changes
    assert (first, second.operation) == (CHANGE, UNREADABLE)


def test_the_digest_of_what_is_withheld_confirms_no_guess() -> None:
    other = encode_frame(entry(4), [part._replace(salt=b"9" * 16) for part in PARTS])
    assert digest_of(other) != digest_of(SECTIONED)


def test_a_header_that_names_sections_needs_them_behind_it() -> None:
    head = for_region("d").entry
    with pytest.raises(HostileEntry, match="sections"):
        decoded(encode_frame(head))


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_mark_of_sections_raise_nothing_else(body: bytes) -> None:
    with contextlib.suppress(ReplicationError):
        list(decode_frames(struct.pack("<II", len(body) | 1 << 31, zlib.crc32(body[4:])) + body))


def test_frames_with_and_without_sections_follow_each_other() -> None:
    body = FRAMES[0] + SECTIONED + FRAMES[2]
    assert [each.frame for each in decode_frames(body)] == [FRAMES[0], SECTIONED, FRAMES[2]]
    assert [has_sections(each) for each in (FRAMES[0], SECTIONED)] == [False, True]
    assert frames_past(body, 1) == SECTIONED + FRAMES[2]
    assert frames_for("d", body)[0] == FRAMES[0] + for_region("d").frame + FRAMES[2]
