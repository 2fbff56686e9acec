"""Frames between regions, independent of what carries them.

    magic     2 bytes   b"At"
    version   u8        PROTOCOL
    kind      u8        1 heartbeat, 2 entries, 3 entries compressed with zstd, 4 the journal begins later
    length    u32 LE    bytes of the body
    check     u32 LE    crc32 of the eight bytes before: a damaged length would be waited for, not noticed
    seal      16 bytes  keyed BLAKE2b of header and body, so that only holders of the key are believed
    body

The reader keeps at most one frame in memory and refuses one that claims to be larger than MAX_FRAME_BYTES,
before and after decompression.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import zstandard

from atoll.documents.entry import EncodedEntry, decode_frames
from atoll.errors import CorruptEntry, ProtocolMismatch
from atoll.schema.bounds import BESIDE_BYTES, MAX_FRAME_BYTES

PROTOCOL: Final = 3
"""Of what regions send each other. 3: contexts have floors, and sets of acceptors change."""
_COMPRESS_FROM_BYTES: Final = 512
_AT_ONCE_BYTES: Final = 256 << 10
"""A longer frame is for another thread: it may hold thousands of entries."""
_MAGIC: Final = b"At"
_HEADER: Final = struct.Struct("<2sBBI")
_CHECK: Final = struct.Struct("<I")
_SEAL_BYTES: Final = 16
_HEAD_BYTES: Final = _HEADER.size + _CHECK.size
_PREFIX_BYTES: Final = _HEAD_BYTES + _SEAL_BYTES

_HEARTBEAT, _ENTRIES, _COMPRESSED, _BEGINS = 1, 2, 3, 4


class Heartbeat(msgspec.Struct, array_like=True, frozen=True):
    """What a peer says of itself: at once when a link opens, then every so often."""

    region: str
    now_ms: int
    """Its wall clock when this was sent."""
    vector: dict[str, int]
    """What it has; later ones on a stream leave out what has not changed."""
    fresh: dict[str, int]
    """region → unix milliseconds of its clock, as of which this peer has everything of it.

    Later ones leave out regions that the stream does not carry and whose moment is hardly newer.
    """
    closed: dict[str, int] = {}
    """Settled former incarnations of all regions → their last entry: what they numbered beyond is lost.

    Left out where nothing has changed.
    """
    whole: bool = True
    """Whether its documents show all that its vector says: not while it installs a snapshot."""


class JournalBegins(msgspec.Struct, array_like=True, frozen=True):
    """Entries that were asked for are no longer in the peer's journal: what they did is in its documents only.

    Nothing but heartbeats follows on this stream.
    """

    past: dict[str, int]
    """origin → the journal holds nothing of it between what was asked for, or sent, and this seq."""


Message = Heartbeat | JournalBegins | list[EncodedEntry]


class Large(NamedTuple):
    """A frame that is not opened yet: `read` is for another thread, and raises as `feed` does."""

    read: Callable[[], Message]


_pack = msgspec.msgpack.Encoder().encode
_heartbeat = msgspec.msgpack.Decoder(Heartbeat).decode
_begins = msgspec.msgpack.Decoder(JournalBegins).decode


def derive_key(deployment_key: bytes, purpose: str) -> bytes:
    """A key of its own for each use, so that no message can be replayed as another kind."""
    return blake2b(purpose.encode(), key=deployment_key[:64], digest_size=32).digest()


def protocol_mismatch(spoken: str) -> ProtocolMismatch:
    return ProtocolMismatch(
        f"the peer speaks {spoken}, this region {_MAGIC!r} version {PROTOCOL}: run the same version of Atoll in all "
        "regions; a store of an older one moves by export and import"
    )


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=1, write_content_size=True)


class FrameWriter:
    def __init__(self, key: bytes) -> None:
        self._key = key
        self._compress = _compressor().compress
        self._last: tuple[bytes, bytes] = (b"", b"")

    def heartbeat(self, heartbeat: Heartbeat) -> bytes:
        return self._frame(_HEARTBEAT, _pack(heartbeat))

    def begins(self, begins: JournalBegins) -> bytes:
        return self._frame(_BEGINS, _pack(begins))

    def entries(self, frames: bytes) -> bytes:
        """`frames`: entry frames of `documents.entry`, one after the other.

        Peers that keep up are sent the same, one after the other: it is compressed and sealed once. Not so large ones,
        which are rare: another thread may do these.
        """
        if len(frames) > BESIDE_BYTES:
            return self._frame(_COMPRESSED, _compressor().compress(frames))
        if frames != self._last[0]:
            self._last = (frames, self._entries(frames))
        return self._last[1]

    def _entries(self, frames: bytes) -> bytes:
        if len(frames) < _COMPRESS_FROM_BYTES:
            return self._frame(_ENTRIES, frames)
        return self._frame(_COMPRESSED, self._compress(frames))

    def _frame(self, kind: int, body: bytes) -> bytes:
        header = _HEADER.pack(_MAGIC, PROTOCOL, kind, len(body))
        header += _CHECK.pack(zlib.crc32(header))
        return header + _seal(self._key, header, body) + body


class FrameReader:
    """Feed it bytes as they come, take messages out.

    Raises ProtocolMismatch for another protocol, CorruptEntry or HostileEntry for damage; the link is
    then closed and asked anew from what was applied.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._buffer = bytearray()
        self._decompress = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress

    def feed(self, data: bytes) -> Iterator[Message | Large]:
        self._buffer += data
        while len(self._buffer) >= _PREFIX_BYTES:
            magic, version, kind, length = _HEADER.unpack_from(self._buffer)
            if magic != _MAGIC or version != PROTOCOL:
                raise protocol_mismatch(f"{bytes(magic)!r} version {version}")
            if _CHECK.unpack_from(self._buffer, _HEADER.size)[0] != zlib.crc32(self._buffer[: _HEADER.size]):
                raise CorruptEntry("a frame's header was damaged in transit")
            if length > MAX_FRAME_BYTES:
                raise CorruptEntry(f"a frame claims {length} bytes, the limit is {MAX_FRAME_BYTES}")
            end = _PREFIX_BYTES + length
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as buffer:
                header, seal = bytes(buffer[:_HEAD_BYTES]), bytes(buffer[_HEAD_BYTES:_PREFIX_BYTES])
                body = bytes(buffer[_PREFIX_BYTES:end])
            del self._buffer[:end]
            if max(length, _unpacked_bytes(kind, body)) > _AT_ONCE_BYTES:
                yield Large(partial(self._message, kind, header, seal, body))
            else:
                yield self._message(kind, header, seal, body)

    def _message(self, kind: int, header: bytes, seal: bytes, body: bytes) -> Message:
        if not hmac.compare_digest(seal, _seal(self._key, header, body)):
            raise CorruptEntry(
                "a frame's seal does not match: damaged in transit, or sealed with another key"
            )
        if kind in (_HEARTBEAT, _BEGINS):
            try:
                return _heartbeat(body) if kind == _HEARTBEAT else _begins(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CorruptEntry(f"a heartbeat cannot be read: {error}") from None
        if kind == _COMPRESSED:
            size = _unpacked_bytes(kind, body)
            if not 0 <= size <= MAX_FRAME_BYTES:
                raise CorruptEntry(f"a compressed frame claims {size} bytes, the limit is {MAX_FRAME_BYTES}")
            try:
                body = self._decompress(body, max_output_size=size)
            except zstandard.ZstdError as error:
                raise CorruptEntry(f"a frame cannot be decompressed: {error}") from None
        elif kind != _ENTRIES:
            raise ProtocolMismatch(f"a frame of unknown kind {kind}; is the peer newer?")
        return list(decode_frames(body))


def _unpacked_bytes(kind: int, body: bytes) -> int:
    """As the body itself says; -1 where it says nothing."""
    try:
        return zstandard.frame_content_size(body) if kind == _COMPRESSED else -1
    except zstandard.ZstdError:
        return -1


def _seal(key: bytes, header: bytes, body: bytes) -> bytes:
    sealed = blake2b(header, key=key, digest_size=_SEAL_BYTES)
    sealed.update(body)
    return sealed.digest()
