"""Journal entries and their frames.

An entry is a transaction: all its changes become visible together, in every region. Its frame is

    length  u32 little-endian   bytes of the payload
    crc32   u32 little-endian   of the payload
    payload msgpack             the `Entry`, as an array

so that a reader can skip without decoding, and a damaged byte is found before it is believed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Annotated

import msgspec

from atoll.documents.trace import Trace
from atoll.errors import CorruptEntry, HostileEntry

MAX_ENTRY_BYTES = 64 << 20
UNREADABLE = -1
"""The operation of a change that stands for what could not be read."""
_HEADER = struct.Struct("<II")


Seq = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Seen = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Stamp = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class LosingVersion(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A losing version that a write replaced. Its writer had seen it beside the winning version."""

    id: str
    status: str
    body: bytes
    """The conflict record as JSON text; see `atoll.conflicts.records`."""


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one entry does to one document."""

    collection: str
    key: str
    operation: int
    registers: dict[str, bytes | None]
    """register name → JSON text, or None for a deletion. The name is "" for the whole document."""
    deltas: dict[str, bytes] = {}
    """field → encoded lattice delta."""
    resolved: tuple[LosingVersion, ...] = ()


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One transaction of one region."""

    origin: Name
    seq: Seq
    stamp: Stamp
    uncertainty_ms: Seen
    context: dict[str, Seen]
    """The version vector of the origin just before this entry."""
    changes: tuple[Change, ...]
    trace: Trace | None = None
    """W3C trace context of the request."""


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry whose changes are left unread."""

    origin: Name
    seq: Seq
    stamp: Stamp
    uncertainty_ms: Seen
    context: dict[str, Seen]
    changes: msgspec.Raw
    trace: Trace | None = None


class EncodedEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry together with the frame that it came in, which is stored and relayed as it is."""

    entry: Entry
    frame: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_header = msgspec.msgpack.Decoder(_Header).decode
_crc32 = zlib.crc32


def encode_frame(entry: Entry) -> bytes:
    return frame_of(_encode(entry))


def frame_of(payload: bytes) -> bytes:
    """The payload with its length and checksum before it."""
    return _HEADER.pack(len(payload), _crc32(payload)) + payload


def decode_frames(body: bytes) -> Iterator[EncodedEntry]:
    """Read the frames of a segment or of a link's batch.

    Raises CorruptEntry where a length or checksum is wrong, HostileEntry where the payload is well
    framed and yet no entry.
    """
    at, end, view = 0, len(body), memoryview(body)
    while at < end:
        if end - at < _HEADER.size:
            raise CorruptEntry(f"a journal frame is cut short at byte {at} of {end}", offset=at)
        length, checksum = _HEADER.unpack_from(body, at)
        start = at + _HEADER.size
        stop = start + length
        if length > MAX_ENTRY_BYTES or stop > end:
            raise CorruptEntry(
                f"a journal frame at byte {at} claims {length} bytes, {end - start} remain",
                offset=at,
                length=length,
            )
        payload = view[start:stop]
        if _crc32(payload) != checksum:
            raise CorruptEntry(f"the checksum of the journal frame at byte {at} does not match", offset=at)
        yield EncodedEntry(decode_entry(payload), body[at:stop])
        at = stop


def decode_entry(payload: bytes | memoryview) -> Entry:
    """Raises HostileEntry for anything but an entry with sane numbers.

    Changes that cannot be read become one change that nobody can merge: the entry keeps its place in its
    origin's journal, so that it stops nothing that comes after it.
    """
    try:
        entry = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        entry = _unreadable(payload, error)
    if entry.context.get(entry.origin, 0) != entry.seq - 1:
        raise HostileEntry(
            f"entry {entry.seq} of {entry.origin} says it had seen {entry.context.get(entry.origin, 0)} of its own; "
            "a journal is dense, so it must be the one before"
        )
    return entry


def _unreadable(payload: bytes | memoryview, why: Exception) -> Entry:
    try:
        found = _decode_header(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HostileEntry(
            f"a frame holds no journal entry, or one that claims the impossible: {why}"
        ) from None
    change = Change("", "", UNREADABLE, {}, {"": bytes(found.changes)})
    return Entry(
        found.origin, found.seq, found.stamp, found.uncertainty_ms, found.context, (change,), found.trace
    )


def frames_past(body: bytes, seq: int) -> bytes:
    """The frames of a one-origin segment whose entries come after `seq`."""
    at = 0
    for encoded in decode_frames(body):
        if encoded.entry.seq > seq:
            break
        at += len(encoded.frame)
    return body[at:]
