from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.backup.archive import ArchiveReader, ArchiveWriter, Header
from atoll.errors import AtollError, ConfigError, StoreCorrupt
from atoll.store.port import AuditRow, Chunk, Commit, Parked, Remembered, Segment

HEADER = Header("shop", "tokyo", 123, "0.1")
PATH = Path("shop.atoll")
CHUNKS = [
    Chunk(
        Commit(documents={"note": [], "cart": []}, positions={"tokyo": 4}, clock=7, schemas={"note": "f"}),
        {"ids": 9},
    ),
    Chunk(Commit(documents={"note": [("ä", b"{}", b"\x00m"), ("b", None, b"")]})),
    Chunk(Commit(segments=[Segment("tokyo", 1, 4, b"frames")])),
    Chunk(
        Commit(
            audit=[
                AuditRow("i", "note", "k", "", "insert_exists", "manual", 5, "a", "b", "lww", True, b"{}")
            ],
            remembered=[Remembered("k", 1, b"r")],
            parked=[Parked("a", 1, 0, "refused", "why", b"p")],
        )
    ),
]


def archive(chunks: list[Chunk], *, end: bool = True) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file, HEADER)
    for chunk in chunks:
        writer.chunk(chunk)
    if end:
        writer.end()
    return file.getvalue()


def read(content: bytes) -> list[Chunk]:
    return list(ArchiveReader(io.BytesIO(content), PATH).chunks())


WHOLE = archive(CHUNKS)


def test_what_went_in_comes_out() -> None:
    reader = ArchiveReader(io.BytesIO(WHOLE), PATH)
    assert reader.header == HEADER
    assert list(reader.chunks()) == CHUNKS
    assert (reader.totals.documents, reader.totals.segments, reader.totals.positions) == (2, 1, {"tokyo": 4})


@pytest.mark.parametrize("at", range(len(WHOLE)))
def test_a_damaged_byte_is_found_wherever_it_is(at: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= 0x55
    with pytest.raises((StoreCorrupt, ConfigError)):
        read(bytes(damaged))


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_an_archive_cut_off_is_refused(size: int) -> None:
    with pytest.raises(StoreCorrupt):
        read(WHOLE[:size])


@given(st.binary(max_size=200))
def test_any_bytes_get_an_error_of_ours(content: bytes) -> None:
    for start in (b"", b"ATOLLBAK\x01"):
        with pytest.raises(AtollError):
            read(start + content)


def frames(content: bytes) -> list[bytes]:
    found, at = [content[:9]], 9
    while at < len(content):
        size = 21 + struct.unpack_from(">I", content, at + 1)[0]
        found.append(content[at : at + size])
        at += size
    return found


def test_frames_missing_doubled_or_in_another_order_are_found() -> None:
    parts = frames(WHOLE)
    for wrong in (
        [*parts[:3], *parts[4:]],
        [*parts[:3], parts[2], *parts[3:]],
        [*parts[:2], parts[3], parts[2], *parts[4:]],
        [*parts[:-1]],
        [*parts, parts[-1]],
    ):
        with pytest.raises(StoreCorrupt):
            read(b"".join(wrong))


def test_another_format_is_named() -> None:
    with pytest.raises(ConfigError, match="has format 3; this Atoll knows up to 2"):
        read(WHOLE[:8] + b"\x03" + WHOLE[9:])
    with pytest.raises(ConfigError, match=r"has format 1; .* `atoll export`.* `atoll import`"):
        read(WHOLE[:8] + b"\x01" + WHOLE[9:])
