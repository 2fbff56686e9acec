"""A backup's file: what a region holds, in a form of its own that knows no engine.

    magic and version · frame · frame · … · end frame
    frame: kind (1 byte), length (4 bytes), digest (16 bytes), payload: msgpack in zstd

Each digest covers the one before it, so a frame that is damaged, missing, doubled or out of order is found. The
first frame says whose the backup is; the last one counts. Fields that a newer version adds are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

import msgspec
import zstandard

from atoll.errors import StoreCorrupt
from atoll.schema.bounds import MAX_CHUNK_BYTES
from atoll.store.port import Chunk
from atoll.store.refusals import check_format

T = TypeVar("T")

_MAGIC = b"ATOLLBAK"
_VERSION = 2
_START = struct.Struct(">8sB")
_FRAME = struct.Struct(">cI16s")
_HEADER, _CHUNK, _END = b"H", b"P", b"E"


class Header(msgspec.Struct, frozen=True):
    """Whose backup, and from when."""

    deployment: str
    region: str
    made_ms: int
    """Unix milliseconds, before the first byte was read."""
    made_by: str
    """Atoll's version."""


class Totals(msgspec.Struct):
    """What is in it."""

    chunks: int = 0
    documents: int = 0
    """With tombstones."""
    segments: int = 0
    conflicts: int = 0
    remembered: int = 0
    parked: int = 0
    positions: dict[str, int] = {}

    @property
    def rows(self) -> int:
        return self.documents + self.segments + self.conflicts + self.remembered + self.parked

    def count(self, chunk: Chunk) -> None:
        commit = chunk.commit
        self.chunks += 1
        self.documents += sum(len(rows) for rows in commit.documents.values())
        self.segments += len(commit.segments)
        self.conflicts += len(commit.audit)
        self.remembered += len(commit.remembered)
        self.parked += len(commit.parked)
        self.positions.update(commit.positions)


_encode = msgspec.msgpack.Encoder().encode
_header = msgspec.msgpack.Decoder(Header).decode
_chunk = msgspec.msgpack.Decoder(Chunk).decode
_totals = msgspec.msgpack.Decoder(Totals).decode


class ArchiveWriter:
    """Writes one; without `end` it is not whole, and will be refused."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.totals = Totals()
        self._file = file
        self._digest = bytes(16)
        self._compress = zstandard.ZstdCompressor(level=3).compress
        file.write(_START.pack(_MAGIC, _VERSION))
        self._frame(_HEADER, _encode(header))

    def chunk(self, chunk: Chunk) -> None:
        self.totals.count(chunk)
        self._frame(_CHUNK, _encode(chunk))

    def end(self) -> None:
        self._frame(_END, _encode(self.totals))

    def _frame(self, kind: bytes, body: bytes) -> None:
        payload = self._compress(body)
        self._digest = _digest_of(self._digest, kind, payload)
        self._file.write(_FRAME.pack(kind, len(payload), self._digest) + payload)


class ArchiveReader:
    """Reads one, and believes nothing before its digest is right."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Raises StoreCorrupt for what is no backup or damaged, ConfigError for another format."""
        self.totals = Totals()
        self._file = file
        self._path = path
        self._digest = bytes(16)
        self._decompressor = zstandard.ZstdDecompressor()
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(_MAGIC):
            raise StoreCorrupt(f"{path}: is not a backup made by Atoll")
        version = _START.unpack(start)[1]
        check_format(str(path), version, _VERSION)
        kind, body = self._frame()
        if kind != _HEADER:
            self._refuse("it does not begin as a backup does")
        self.header = self._decoded(_header, body)

    def chunks(self) -> Iterator[Chunk]:
        """All of them; raises StoreCorrupt, at the end too, when anything is missing."""
        while True:
            kind, body = self._frame()
            if kind == _END:
                break
            if kind != _CHUNK:
                self._refuse(f"it holds a frame of unknown kind {kind!r}")
            chunk = self._decoded(_chunk, body)
            self.totals.count(chunk)
            yield chunk
        if self._decoded(_totals, body) != self.totals:
            self._refuse("it holds something else than it says at its end")
        if self._file.read(1):
            self._refuse("there is more after its end")

    def _frame(self) -> tuple[bytes, bytes]:
        head = self._file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            self._refuse("it is cut off")
        kind, size, digest = _FRAME.unpack(head)
        if size > MAX_CHUNK_BYTES:
            self._refuse("a frame says that it is larger than any can be")
        payload = self._file.read(size)
        if len(payload) < size:
            self._refuse("it is cut off")
        self._digest = _digest_of(self._digest, kind, payload)
        if digest != self._digest:
            self._refuse("a digest is wrong")
        try:
            if zstandard.frame_content_size(payload) > MAX_CHUNK_BYTES:
                self._refuse("a frame holds more than any can")
            return kind, self._decompressor.decompress(payload)
        except zstandard.ZstdError as error:
            self._refuse(str(error))

    def _decoded(self, decode: Callable[[bytes], T], body: bytes) -> T:
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(f"a frame cannot be read: {error}")

    def _refuse(self, reason: str) -> NoReturn:
        raise StoreCorrupt(
            f"{self._path}: the backup is damaged: {reason}; nothing was changed", path=str(self._path)
        )


def _digest_of(before: bytes, kind: bytes, payload: bytes) -> bytes:
    return blake2b(before + kind + len(payload).to_bytes(4, "big") + payload, digest_size=16).digest()
