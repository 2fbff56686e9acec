from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from random import Random

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.entry import FORMAT, Change, Entry, decode_frames, encode_frame
from atoll.errors import CorruptEntry, HostileEntry, ProtocolMismatch, ReplicationError
from atoll.replication.wire import (
    MAX_FRAME_BYTES,
    PROTOCOL,
    FrameReader,
    FrameWriter,
    Heartbeat,
    JournalBegins,
    Large,
    Message,
    derive_key,
)

from .entries import encoded, segment

KEY = derive_key(b"the deployment's key", "links")
HEARTBEAT = Heartbeat("tokyo", 1_000_000, {"tokyo": 3, "virginia": 9}, {"virginia": 999_000})
ENTRIES = segment("tokyo", 1, 5)
LARGE = segment("tokyo", 1, 40, size=400)
RANDOM = Random(1).randbytes(3 << 20)


def opened(found: Message | Large) -> Message:
    return found.read() if isinstance(found, Large) else found


def read(data: bytes, key: bytes = KEY) -> list[Message]:
    return [opened(each) for each in FrameReader(key).feed(data)]


def head(magic: bytes, version: int, kind: int, length: int) -> bytes:
    header = struct.pack("<2sBBI", magic, version, kind, length)
    return header + struct.pack("<I", zlib.crc32(header))


def frame(kind: int, body: bytes, *, magic: bytes = b"At", version: int = PROTOCOL) -> bytes:
    """A frame whose seal holds, whatever is in it."""
    header = head(magic, version, kind, len(body))
    return header + blake2b(header + body, key=KEY, digest_size=16).digest() + body


def test_messages_come_out_as_they_went_in() -> None:
    writer = FrameWriter(KEY)
    sent = writer.heartbeat(HEARTBEAT) + writer.entries(ENTRIES.body) + writer.entries(LARGE.body)
    heartbeat, small, large = read(sent)
    assert heartbeat == HEARTBEAT
    assert small == [encoded("tokyo", seq) for seq in range(1, 6)]
    assert large == [encoded("tokyo", seq, size=400) for seq in range(1, 41)]


@pytest.mark.parametrize("letter", [b"x", None], ids=["much when unpacked", "much on the wire"])
def test_a_large_frame_is_left_for_another_thread(letter: bytes | None) -> None:
    frames = encode_frame(
        Entry("tokyo", 1, 1, 5, {}, (Change("c", "k", 0, {"": letter * (3 << 20) if letter else RANDOM}),))
    )
    sent = FrameWriter(KEY).entries(frames)
    heartbeat, large, small = FrameReader(KEY).feed(
        FrameWriter(KEY).heartbeat(HEARTBEAT) + sent + FrameWriter(KEY).entries(ENTRIES.body)
    )
    assert heartbeat == HEARTBEAT
    assert isinstance(large, Large)
    assert large.read() == list(decode_frames(frames))
    assert isinstance(small, list)
    damaged = bytearray(sent)
    damaged[-1] ^= 1
    (large,) = FrameReader(KEY).feed(damaged)
    assert isinstance(large, Large)
    with pytest.raises(CorruptEntry, match="seal"):
        large.read()


def test_what_is_large_is_compressed() -> None:
    assert len(FrameWriter(KEY).entries(LARGE.body)) < len(LARGE.body) / 4


def test_what_several_peers_are_sent_is_compressed_once() -> None:
    writer = FrameWriter(KEY)
    first = writer.entries(LARGE.body)
    assert writer.entries(bytes(bytearray(LARGE.body))) is first
    assert read(writer.entries(ENTRIES.body) + writer.entries(LARGE.body)) == read(
        FrameWriter(KEY).entries(ENTRIES.body) + first
    )


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    writer, reader = FrameWriter(KEY), FrameReader(KEY)
    sent = writer.heartbeat(HEARTBEAT) + writer.entries(ENTRIES.body) + writer.entries(LARGE.body)
    found: list[Message] = []
    at = 0
    while at < len(sent):
        step = cuts[at % len(cuts)]
        found += reader.feed(sent[at : at + step])
        at += step
    assert found == read(sent)


@pytest.mark.parametrize("message", [ENTRIES.body, LARGE.body], ids=["plain", "compressed"])
def test_a_damaged_byte_is_found_wherever_it_is(message: bytes) -> None:
    sent = FrameWriter(KEY).entries(message)
    for at in range(len(sent)):
        damaged = bytearray(sent)
        damaged[at] ^= 0x40
        with pytest.raises(ReplicationError):
            read(bytes(damaged))


@pytest.mark.parametrize("message", [ENTRIES.body, LARGE.body], ids=["plain", "compressed"])
def test_a_frame_cut_short_gives_nothing(message: bytes) -> None:
    sent = FrameWriter(KEY).entries(message)
    for length in range(len(sent)):
        assert read(sent[:length]) == []


def test_another_key_is_not_believed() -> None:
    other = derive_key(b"another deployment", "links")
    with pytest.raises(CorruptEntry, match="seal"):
        read(FrameWriter(KEY).heartbeat(HEARTBEAT), other)


def test_a_key_for_another_purpose_is_not_believed() -> None:
    with pytest.raises(CorruptEntry, match="seal"):
        read(FrameWriter(derive_key(b"the deployment's key", "calls")).heartbeat(HEARTBEAT))


@pytest.mark.parametrize(("magic", "version"), [(b"At", PROTOCOL + 1), (b"At", 0), (b"HT", 84)])
def test_another_protocol_is_named(magic: bytes, version: int) -> None:
    with pytest.raises(ProtocolMismatch, match=f"version {version}"):
        read(frame(1, b"x" * 20, magic=magic, version=version))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ProtocolMismatch, match="kind 9"):
        read(frame(9, b""))


def test_an_absurd_length_is_refused_before_its_body_comes() -> None:
    header = head(b"At", PROTOCOL, 2, MAX_FRAME_BYTES + 1)
    with pytest.raises(CorruptEntry, match="claims"):
        read(header + bytes(16))


def test_a_decompression_bomb_is_refused_unopened() -> None:
    whole = zstandard.ZstdCompressor(level=1).compressobj(size=MAX_FRAME_BYTES + 1)
    bomb = whole.compress(bytes(1 << 20)) + whole.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert zstandard.frame_content_size(bomb) == MAX_FRAME_BYTES + 1
    with pytest.raises(CorruptEntry, match="claims"):
        read(frame(3, bomb))


def test_a_bomb_that_hides_its_size_is_refused() -> None:
    streaming = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    bomb = streaming.compress(bytes(1 << 24)) + streaming.flush()
    with pytest.raises(CorruptEntry):
        read(frame(3, bomb))


@given(st.binary(max_size=300), st.integers(1, 3))
def test_a_sealed_body_of_any_bytes_raises_nothing_else(body: bytes, kind: int) -> None:
    try:
        found = read(frame(kind, body))
    except ReplicationError:
        return
    assert isinstance(found, list)


def test_a_well_framed_body_that_is_no_entry_is_hostile() -> None:
    payload = msgspec.msgpack.encode(["tokyo", 5])
    with pytest.raises(HostileEntry):
        read(frame(2, _encoded(payload)))


def test_an_entry_with_a_gap_behind_it_is_hostile() -> None:
    entry = [FORMAT, "tokyo", 5, 1 << 40, 5, {"tokyo": 2}, []]
    with pytest.raises(HostileEntry, match="dense"):
        read(frame(2, _encoded(msgspec.msgpack.encode(entry))))


def _encoded(payload: bytes) -> bytes:
    import zlib

    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def test_where_a_journal_begins_comes_back() -> None:
    begins = JournalBegins({"tokyo": 7})
    assert list(FrameReader(KEY).feed(FrameWriter(KEY).begins(begins))) == [begins]
