"""Journal entries and their frames, format 2.

An entry is a transaction: all its changes become visible together, in every region. It is a header and sections.
Nearly every entry has its changes for all regions in the header, and no section:

    length   u32 LE    bytes of the header
    check    u32 LE    CRC-32 of the header
    header   msgpack   the `Entry` as an array, with the format's number first

Changes that only some regions may hold lie behind the header, in a section for each audience:

    length   u32 LE    bytes of all that comes after `check`; bit 31 is set
    check    u32 LE    CRC-32 of the header
    head     u32 LE    bytes of the header
    header   msgpack   as above; it names the audience, length and digest of each section
    present  bits      one for each section, the first is the lowest; whole bytes
    sections           those that are present: 16 random bytes, then msgpack of the changes

A region outside an audience gets the frame without that section. Its journal is dense all the same. It can check and
relay the entry, since header and check are those of the origin. The random bytes keep it from guessing: without them
the digest would confirm a guess of what the section holds.

A reader can skip a frame without decoding it, and finds a damaged byte before it believes one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

import msgspec

from atoll.causality import types
from atoll.causality.origin import Origin
from atoll.causality.types import Audience, Ballot, Dot, Epoch, Order, RegionName
from atoll.documents.trace import Trace
from atoll.errors import CorruptEntry, HostileEntry
from atoll.schema.bounds import MAX_ENTRY_BYTES

FORMAT: Final = 2
SALT_BYTES: Final = 16
UNREADABLE: Final = -1
"""The operation of a change that stands for what could not be read."""
_DIGEST_BYTES: Final = 16
_SECTIONED: Final = 1 << 31
_HEADER: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<I")
_PREFIX: Final = _HEADER.size
_FIRST: Final = _PREFIX + _HEAD.size
"""Where the header of a frame with sections begins."""


Seq = Annotated[types.Seq, msgspec.Meta(ge=1, lt=1 << 53)]
Seen = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Name = Annotated[Origin, msgspec.Meta(min_length=1)]
Stamp = Annotated[types.Stamp, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[bytes, msgspec.Meta(min_length=_DIGEST_BYTES, max_length=_DIGEST_BYTES)]
Identifier = Annotated[bytes, msgspec.Meta(max_length=32)]


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


class Section(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the header says of the changes behind it."""

    audience: Audience
    length: Annotated[int, msgspec.Meta(ge=SALT_BYTES, le=MAX_ENTRY_BYTES)]
    digest: Digest
    """BLAKE2b of the section's bytes."""


class Extension(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What few headers have."""

    sections: tuple[Section, ...] = ()
    epoch: Annotated[Epoch, msgspec.Meta(ge=0, lt=1 << 53)] = Epoch(0)
    """Under which the owner of the documents wrote them; 0 where nobody is fenced."""
    ballot: Ballot | None = None
    """Of a value that a consensus register decided."""
    revision: Identifier = b""
    """Of the declarations that the writer had."""
    key: Identifier = b""
    """Names the key under which the changes are sealed."""


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=FORMAT):
    """One transaction of one region."""

    origin: Name
    """The region with its incarnation: see `causality.origin`. A number is given out once under each."""
    seq: Seq
    stamp: Stamp
    uncertainty_ms: Seen
    context: dict[str, Seen]
    """The version vector of the origin just before this entry."""
    changes: tuple[Change, ...]
    """In a header those for everyone; once decoded also those of the sections that are here, in their order."""
    trace: Trace | None = None
    """W3C trace context of the request."""
    extension: Extension | None = None

    @property
    def dot(self) -> Dot:
        return Dot(self.origin, self.seq)

    @property
    def order(self) -> Order:
        return (self.stamp, self.origin, self.seq)


class EncodedEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry together with the frame that it came in, which is stored and relayed as it is."""

    entry: Entry
    frame: bytes
    withheld: tuple[Audience, ...] = ()
    """Of the sections that are not here."""


class Restricted(NamedTuple):
    """Changes for some regions, to be put into a section of their own."""

    audience: Audience
    changes: tuple[Change, ...]
    salt: bytes
    """SALT_BYTES random ones, never used before."""


class _Frame(NamedTuple):
    """A frame with sections, taken apart."""

    head: bytes
    entry: Entry
    parts: tuple[bytes | None, ...]
    """The sections; None for one that is not here."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_changes = msgspec.msgpack.Decoder(tuple[Change, ...]).decode
_CHANGES: Final = 1 + Entry.__struct_fields__.index("changes")
"""Their place in the array, behind the format's number."""
_pack = _HEADER.pack
_unpack = _HEADER.unpack_from
_crc32 = zlib.crc32


def audience_of(*regions: str) -> Audience:
    """The same for the same set of regions. Raises ValueError for none at all."""
    if not regions:
        raise ValueError("an audience without regions: nobody could hold the changes")
    return tuple(RegionName(name) for name in sorted(set(regions)))


# -- encoding --------------------------------------------------------------------------------------------


def encode_frame(entry: Entry, restricted: Sequence[Restricted] = ()) -> bytes:
    """The frame that is stored and sent: `entry` with its changes for everyone, and those for some regions only."""
    if restricted:
        return _encode_sections(entry, restricted)
    header = _encode(entry)
    return _pack(len(header), _crc32(header)) + header


def frame_of(payload: bytes) -> bytes:
    """The payload with its length and checksum before it."""
    return _pack(len(payload), _crc32(payload)) + payload


def _encode_sections(entry: Entry, restricted: Sequence[Restricted]) -> bytes:
    parts = tuple(each.salt + _encode(each.changes) for each in restricted)
    sections = tuple(
        Section(each.audience, len(part), _digest(part)) for each, part in zip(restricted, parts, strict=True)
    )
    extension = msgspec.structs.replace(entry.extension or Extension(), sections=sections)
    return _assembled(_encode(msgspec.structs.replace(entry, extension=extension)), parts)


def _assembled(head: bytes, parts: tuple[bytes | None, ...]) -> bytes:
    present = sum(1 << number for number, part in enumerate(parts) if part is not None)
    here = b"".join(part for part in parts if part is not None)
    body = head + present.to_bytes(_bitmap_bytes(len(parts)), "little") + here
    length = _HEAD.size + len(body)
    return _pack(_SECTIONED | length, _crc32(head)) + _HEAD.pack(len(head)) + body


def _bitmap_bytes(sections: int) -> int:
    return (sections + 7) // 8


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


# -- decoding --------------------------------------------------------------------------------------------


def decode_frames(body: bytes) -> Iterator[EncodedEntry]:
    """Read the frames of a segment or of a link's batch.

    Raises CorruptEntry where a length, checksum or digest is wrong, HostileEntry where the payload is well
    framed and yet no entry.
    """
    at, end, view = 0, len(body), memoryview(body)
    while at < end:
        if end - at < _PREFIX:
            raise CorruptEntry(f"a journal frame is cut short at byte {at} of {end}", offset=at)
        length, checksum = _unpack(body, at)
        start = at + _PREFIX
        stop = start + length
        if length > MAX_ENTRY_BYTES or stop > end:
            stop = start + (length & ~_SECTIONED)
            if not length & _SECTIONED or stop - start > MAX_ENTRY_BYTES or stop > end:
                raise CorruptEntry(
                    f"a journal frame at byte {at} claims {stop - start} bytes, {end - start} remain",
                    offset=at,
                    length=stop - start,
                )
            yield _decode_sectioned(body[at:stop], at)
            at = stop
            continue
        header = view[start:stop]
        if _crc32(header) != checksum:
            raise CorruptEntry(f"the checksum of the journal frame at byte {at} does not match", offset=at)
        entry = decode_entry(header)
        if entry.extension is not None and entry.extension.sections:
            raise HostileEntry(f"entry {entry.seq} of {entry.origin} names sections, and its frame has none")
        yield EncodedEntry(entry, body[at:stop])
        at = stop


def _decode_sectioned(frame: bytes, at: int) -> EncodedEntry:
    _, entry, parts = _taken_apart(frame, at)
    changes, withheld = entry.changes, []
    for section, part in zip(_sections(entry), parts, strict=True):
        if part is None:
            withheld.append(section.audience)
        else:
            changes += _changes_in(part)
    return EncodedEntry(msgspec.structs.replace(entry, changes=changes), frame, tuple(withheld))


def _taken_apart(frame: bytes, at: int = 0) -> _Frame:
    """Raises CorruptEntry, and HostileEntry for a header that contradicts itself."""
    place = _FIRST + _HEAD.unpack_from(frame, _PREFIX)[0] if len(frame) >= _FIRST else len(frame) + 1
    head = frame[_FIRST:place]
    if place > len(frame) or _crc32(head) != _unpack(frame)[1]:
        raise CorruptEntry(f"the checksum of the journal frame at byte {at} does not match", offset=at)
    entry = decode_entry(head)
    sections = _sections(entry)
    for audience in (section.audience for section in sections):
        if audience is not None and (not audience or audience != audience_of(*audience)):
            raise HostileEntry(
                f"entry {entry.seq} of {entry.origin} has a section for {audience!r}, no set of regions"
            )
    size = _bitmap_bytes(len(sections))
    present = int.from_bytes(frame[place : place + size], "little")
    place += size
    parts: list[bytes | None] = []
    for number, section in enumerate(sections):
        part = frame[place : place + section.length] if present >> number & 1 else None
        if part is not None and _digest(part) != section.digest:
            raise CorruptEntry(
                f"the digest of section {number} of the frame at byte {at} does not match", offset=at
            )
        place += 0 if part is None else section.length
        parts.append(part)
    if not sections or present >> len(sections) or place != len(frame):
        raise CorruptEntry(
            f"the journal frame at byte {at} does not hold the sections that it names", offset=at
        )
    return _Frame(head, entry, tuple(parts))


def _sections(entry: Entry) -> tuple[Section, ...]:
    return () if entry.extension is None else entry.extension.sections


def _changes_in(section: bytes) -> tuple[Change, ...]:
    data = section[SALT_BYTES:]
    try:
        return _decode_changes(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return (_unreadable_change(data),)


def decode_entry(payload: bytes | memoryview) -> Entry:
    """Raises HostileEntry for anything but an entry with sane numbers.

    Changes that cannot be read become one change that nobody can merge. The entry keeps its place in its origin's
    journal, so that it stops nothing that comes after it.
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
    """The entry with its changes left unread."""
    try:
        parts = _decode_parts(payload)
        parts[_CHANGES] = msgspec.Raw(_encode((_unreadable_change(bytes(parts[_CHANGES])),)))
        return _decode(_encode(parts))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        raise HostileEntry(
            f"a frame holds no journal entry, or one that claims the impossible: {why}"
        ) from None


def _unreadable_change(data: bytes) -> Change:
    return Change("", "", UNREADABLE, {}, {"": data})


# -- frames ----------------------------------------------------------------------------------------------


def has_sections(frame: bytes) -> bool:
    """Whether the first frame has any. A segment's frames are alike in this: see `Batch`."""
    return frame[3] & 0x80 != 0


def digest_of(frame: bytes) -> bytes:
    """Of the header, which is the same in every region, and names the digests of all sections."""
    return _digest(_taken_apart(frame).head if has_sections(frame) else frame[_PREFIX:])


def frames_past(body: bytes, seq: int) -> bytes:
    """The frames of a one-origin segment whose entries come after `seq`."""
    at = 0
    for encoded in decode_frames(body):
        if encoded.entry.seq > seq:
            break
        at += len(encoded.frame)
    return body[at:]


def frames_for(region: str, body: bytes) -> tuple[bytes, int | None]:
    """The frames of a segment without the sections that `region` may not hold.

    Ends before an entry of which a section for it is not here: then with that entry's seq, else with None.
    """
    kept: list[bytes] = []
    for encoded in decode_frames(body):
        if not has_sections(encoded.frame):
            kept.append(encoded.frame)
            continue
        if lacks(encoded, region):
            return b"".join(kept), encoded.entry.seq
        head, entry, parts = _taken_apart(encoded.frame)
        audiences = (section.audience for section in _sections(entry))
        allowed = tuple(
            part if _admits(audience, region) else None
            for audience, part in zip(audiences, parts, strict=True)
        )
        kept.append(_assembled(head, allowed))
    return b"".join(kept), None


def lacks(encoded: EncodedEntry, region: str) -> bool:
    """Whether a section that `region` must have is not here."""
    return any(_admits(audience, region) for audience in encoded.withheld)


def _admits(audience: Audience, region: str) -> bool:
    return audience is None or region in audience
