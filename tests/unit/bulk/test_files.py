from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from atoll.bulk.files import Compression, FileKind, compressed, kind_of, open_input, skip
from atoll.bulk.reading import lines_of
from atoll.errors import InvalidOperation

LINES = [b"line %d\n" % n for n in range(2000)]


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("a.jsonl", None, FileKind("jsonl")),
        ("a.NDJSON.gz", None, FileKind("jsonl", "gz")),
        ("a.csv.zst", None, FileKind("csv", "zst")),
        ("a.parquet", None, FileKind("parquet")),
        ("a.txt", "csv", FileKind("csv")),
        ("-", None, FileKind("jsonl")),
        ("-", "csv", FileKind("csv")),
    ],
)
def test_the_name_says_what_it_is(name: str, given: str | None, kind: FileKind) -> None:
    assert kind_of(name, given) == kind


@pytest.mark.parametrize(
    ("name", "given"),
    [("a.txt", None), ("a", None), ("a.csv", "xml"), ("a.parquet.gz", None), ("-", "parquet")],
)
def test_what_cannot_be_read_is_refused(name: str, given: str | None) -> None:
    with pytest.raises(InvalidOperation):
        kind_of(name, given)


@pytest.mark.parametrize("compression", [None, "gz", "zst"])
def test_blocks_one_after_the_other_read_as_one_file(tmp_path: Path, compression: Compression | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(
        b"".join(compressed(b"".join(LINES[at : at + 300]), compression) for at in range(0, 2000, 300))
    )
    with open_input(str(path), compression) as source:
        assert [line for line, _ in lines_of(source, 1000)] == LINES


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_file_cut_off_is_noticed(tmp_path: Path, compression: Compression) -> None:
    path = tmp_path / "file"
    path.write_bytes(compressed(b"".join(LINES), compression)[:-9])
    with (
        open_input(str(path), compression) as source,
        pytest.raises(InvalidOperation, match="damaged or cut off"),
    ):
        list(lines_of(source, 1000))


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_what_is_not_compressed_is_noticed(tmp_path: Path, compression: Compression) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(LINES))
    with (
        open_input(str(path), compression) as source,
        pytest.raises(InvalidOperation, match="damaged or cut off"),
    ):
        list(lines_of(source, 1000))


def test_a_line_too_long_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\n" + b"x" * 5000 + b"\ntwo\n" + b"y" * 5000)
    with open_input(str(path), None) as source:
        found = list(lines_of(source, 1000))
    assert found == [(b"one\n", 4), (None, 5001), (b"two\n", 4), (None, 5000)]


def test_skipping_counts_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"x" * 100))
    with open_input(str(path), "gz") as source:
        assert skip(source.stream, 60) == 60
        assert skip(source.stream, 600) == 40


def test_a_frame_carries_a_checksum() -> None:
    data = bytearray(compressed(b"a" * 1000, "zst"))
    data[-1] ^= 1
    with pytest.raises(zstandard.ZstdError):
        zstandard.ZstdDecompressor().decompress(bytes(data))
