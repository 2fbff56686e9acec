"""Files by their names: which format, how compressed; and streams that know how far they are."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, get_args

import zstandard

from atoll.errors import InvalidOperation

Format = Literal["jsonl", "csv", "copy", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Compression = Literal["gz", "zst"]

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
_CHUNK_BYTES = 1 << 18
STREAM = "-"
"""Stands for stdin or stdout."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file's name, or `--format`, says about its content."""

    format: Format
    compression: Compression | None = None


def kind_of(name: str, given: str | None = None) -> FileKind:
    """By suffix: `orders.csv.gz`. Raises InvalidOperation when neither the name nor `given` says it."""
    path = Path("stream.jsonl" if name == STREAM else name)
    compression = _COMPRESSIONS.get(path.suffix.lower())
    suffix = Path(path.stem if compression else path.name).suffix.lower()
    if given is not None and given not in FORMATS:
        raise InvalidOperation(f"--format takes {', '.join(FORMATS)}, not {given!r}")
    found: Format | None = given if given is not None else _SUFFIXES.get(suffix)
    if found is None:
        raise InvalidOperation(
            f"{name}: its name does not give its format; name it .jsonl, .csv or .parquet (and .gz or .zst after it),"
            " or give --format"
        )
    if found == "parquet" and (compression or name == STREAM):
        raise InvalidOperation(
            f"{name}: Parquet is read from its end and compresses itself; give a plain file, such as orders.parquet"
        )
    return FileKind(found, compression)


class _Frames(io.RawIOBase):
    """A zstd file of any number of frames. Unlike the library's own reader it notices one that is cut off."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            if not self._input:
                self._input = self._source.read(_CHUNK_BYTES)
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("the file ends within a zstd frame")
                    return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._output = frame.decompress(self._input)
            self._input = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


class _FromUtf16(io.RawIOBase):
    """A file in UTF-16, as spreadsheets write it, in UTF-8."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decode = codecs.getincrementaldecoder("utf-16")().decode
        self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            chunk = self._source.read(_CHUNK_BYTES)
            self._output = self._decode(chunk, final=not chunk).encode()
            if not chunk:
                break
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


@dataclass(slots=True)
class Input:
    """A file open for reading, decompressed."""

    name: str
    stream: BinaryIO
    size_bytes: int | None
    """On disk; None for stdin."""
    seekable: bool
    """Whether a position can be gone to without reading what lies before it."""
    raw: BinaryIO
    """As it lies on disk; how far it was read is what the progress bar shows."""

    def tell(self) -> int:
        """Bytes of the file that were read; 0 where that is not known."""
        return 0 if self.size_bytes is None else self.raw.tell()

    def close(self) -> None:
        if self.name != STREAM:
            self.stream.close()
            self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def open_input(name: str, compression: Compression | None) -> Input:
    """Raises InvalidOperation for a file that cannot be read."""
    if name == STREAM:
        raw: BinaryIO = sys.stdin.buffer
        size = None
    else:
        try:
            raw = Path(name).open("rb")  # noqa: SIM115 - `Input.close` closes it
            size = Path(name).stat().st_size
        except OSError as error:
            raise InvalidOperation(f"{name}: cannot be read: {error.strerror}") from None
    if size is not None and not raw.seekable():
        size = None  # a pipe with a name
    seekable = size is not None
    stream: Any = raw
    if compression is not None:
        stream = (
            gzip.GzipFile(fileobj=raw)
            if compression == "gz"
            else io.BufferedReader(_Frames(raw), _CHUNK_BYTES)
        )
        seekable = False
    with contextlib.suppress(OSError, EOFError, zlib.error, zstandard.ZstdError):  # said when it is read
        if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            stream, seekable = io.BufferedReader(_FromUtf16(stream), _CHUNK_BYTES), False
    return Input(name, stream, size, seekable, raw)


def skip(stream: BinaryIO, count: int) -> int:
    """Read and drop `count` bytes; returns how many there were."""
    left = count
    while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)
    return count - left


def compressed(data: bytes, compression: Compression | None) -> bytes:
    """One whole gzip member or zstd frame: files made of several read as one."""
    match compression:
        case "gz":
            return gzip.compress(data, 6, mtime=0)
        case "zst":
            return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)
        case None:
            return data


def check_delimiter(delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii():
        raise InvalidOperation(f"--delimiter takes one character, such as ';' or a tab, not {delimiter!r}")
