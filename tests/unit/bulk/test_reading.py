from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.bulk.files import Compression, compressed, open_input
from atoll.bulk.parquet import ParquetRows, write_parquet
from atoll.bulk.reading import Document, Layout, Position, Reader, Row, csv_rows, document_of, json_rows
from atoll.bulk.writing import csv_writer, json_lines_writer
from atoll.errors import InvalidOperation, RequestError, UnknownField

from .shop import EVERYTHING
from .test_cells import VALUES

LAYOUT = Layout(EVERYTHING, line_bytes=1 << 20)
START = Position()
HEADER = b"key,number,text\n"

documents = st.dictionaries(
    st.text(
        st.characters(
            min_codepoint=33, max_codepoint=0x3000, exclude_characters="\x7f./", exclude_categories=("C", "M")
        ),
        min_size=1,
        max_size=8,
    ),
    st.fixed_dictionaries({}, optional=VALUES),
    min_size=1,
    max_size=6,
)


def canonical(given: dict[str, object]) -> list[Document]:
    import json

    found = []
    for key, fields in given.items():
        try:
            found.append(
                (EVERYTHING.validate_key(key), EVERYTHING.canonical(json.dumps(fields).encode(), key))
            )
        except RequestError:
            continue  # a key that is not in normal form, say
    return found


def read(path: Path, kind: str, start: Position = START, compression: Compression | None = None) -> list[Row]:
    with opened(path, kind, compression) as reader:
        return list(reader(start))


@contextmanager
def opened(path: Path, kind: str, compression: Compression | None = None) -> Iterator[Reader]:
    if kind == "parquet":
        with closing(ParquetRows(str(path), LAYOUT)) as rows:
            yield rows.rows
        return
    with open_input(str(path), compression) as source:
        yield partial(json_rows if kind == "jsonl" else csv_rows, source, LAYOUT)


def write(path: Path, kind: str, found: list[Document], compression: Compression | None = None) -> None:
    if kind == "parquet":
        write_parquet(path, EVERYTHING, found)
        return
    writer = json_lines_writer() if kind == "jsonl" else csv_writer(EVERYTHING, ",")
    path.write_bytes(compressed(writer.head, compression) + compressed(writer.block(found), compression))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@given(given_=documents)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_documents_come_back_as_they_went(tmp_path: Path, kind: str, given_: dict[str, object]) -> None:
    found = canonical(given_)
    write(tmp_path / "file", kind, found)
    assert [document_of(LAYOUT, row) for row in read(tmp_path / "file", kind)] == found


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("compression", [None, "gz", "zst"])
def test_reading_goes_on_from_any_position(
    tmp_path: Path, kind: str, compression: Compression | None
) -> None:
    if kind == "parquet" and compression:
        pytest.skip("Parquet compresses itself")
    found = canonical({f"k{n}": {"text": f"two\nlines, {n}" if n % 3 else "x"} for n in range(40)})
    write(tmp_path / "file", kind, found, compression)
    with opened(tmp_path / "file", kind, compression) as reader:
        positions = [(row, row.end) for row in reader(START)]
    places = [row.place for row, _ in positions]
    for at, (_, position) in enumerate(positions):
        rest = read(tmp_path / "file", kind, position, compression)
        assert [document_of(LAYOUT, row) for row in rest] == found[at + 1 :]
        assert [row.place for row in rest] == places[at + 1 :]


def test_parquet_goes_on_in_any_row_group(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"key": [f"k{n}" for n in range(25)], "number": list(range(25))})
    pq.write_table(table, tmp_path / "file", row_group_size=7)
    for start in range(26):
        keys = [
            document_of(LAYOUT, row)[0] for row in read(tmp_path / "file", "parquet", Position(start, start))
        ]
        assert keys == [f"k{n}" for n in range(start, 25)]


def test_parquets_own_types_are_understood(tmp_path: Path) -> None:
    from datetime import UTC, date, datetime
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {
        "id": 7,
        "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "day": date(2026, 5, 6),
        "price": Decimal("2.50"),
        "labels": [("a", 1)],
        "tags": ["x"],
        "nested": {"deep": [1]},
        "number": None,
    }
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("at", pa.timestamp("us", "UTC")),
            ("day", pa.date32()),
            ("price", pa.decimal128(10, 2)),
            ("labels", pa.map_(pa.string(), pa.int64())),
            ("tags", pa.list_(pa.string())),
            ("nested", pa.struct([("deep", pa.list_(pa.int64()))])),
            ("number", pa.int64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "file")
    layout = Layout(EVERYTHING, key="id")
    with closing(ParquetRows(str(tmp_path / "file"), layout)) as reader:
        (found,) = reader.rows(START)
    key, text = document_of(layout, found)
    document = EVERYTHING.to_model(key, text)
    assert key == "7"
    assert document.model_dump(include={"at", "day", "price", "labels", "tags", "nested", "number"}) == {
        "at": row["at"],
        "day": row["day"],
        "price": row["price"],
        "labels": {"a": 1},
        "tags": {"x"},
        "nested": {"deep": [1]},
        "number": 0,
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[1]", "not one JSON object"),
        (b'{"key":"a"', "not one JSON object"),
        (b"\xff\xfe", "not one JSON object"),
        (b'{"number":1}', "key: required, and missing"),
        (b'{"key":null}', "key: names the document"),
        (b'{"key":""}', "at least one character"),
        (b'{"key":"a","number":"x"}', "number: must be a valid integer"),
        (b'{"key":"a","nomber":1}', "no field 'nomber'; did you mean number"),
        (b'{"key":"a","number":NaN}', "not one JSON object"),
        (b'{"key":"a","number":1,"number":2}', "'number' is given twice"),
        (b'{"key":"a","key":"b"}', "'key' is given twice"),
        (b'{"key":"a","nested":{"deep":[{"x":1,"x":2}]}}', "'x' is given twice"),
        (b'{"key":"a","labels":{"x":1,"\\u0078":2}}', "'x' is given twice"),
        (b'{"key":"a","number":99999999999999999999}', "number: must be less than|beyond 64 bits"),
        (b'{"key":"a","text":"\xff"}', "not valid JSON"),
        (b'{"key":"a","text":"' + b"x" * (1 << 20) + b'"}', "has 1048598 bytes, more than"),
    ],
)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path: Path, line: bytes, problem: str) -> None:
    (tmp_path / "file").write_bytes(b'\xef\xbb\xbf{"key":"first"}\n\n' + line + b'\n{"key":3}\n')
    first, bad, last = read(tmp_path / "file", "jsonl")
    assert [document_of(LAYOUT, row)[0] for row in (first, last)] == ["first", "3"]
    assert bad.place == 3
    with pytest.raises(RequestError, match=problem):
        document_of(LAYOUT, bad)


def test_a_record_of_the_wrong_length_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(HEADER + b'a,1,"x\ny"\nb,2\n\nc,3,z,9\nd,4,w\n')
    rows = read(tmp_path / "file", "csv")
    assert [(row.place, row.problem is None) for row in rows] == [
        (2, True),
        (4, False),
        (6, False),
        (7, True),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1 must name the columns"),
        (b"key,key\n", "two columns called 'key'"),
        (b"id,number\n", "no column is called 'key'"),
        (HEADER + b'a,1,"never closed\n', "line 2: not CSV"),
        (HEADER + b"a,1,\xff\n", "line 2: not UTF-8"),
        (HEADER + b"a,1," + b"x" * (1 << 20) + b"\n", "line 2: everything: the line has"),
    ],
)
def test_csv_that_cannot_be_told_apart_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidOperation, match=problem):
        read(tmp_path / "file", "csv")


def test_an_unknown_column_is_refused_at_once_unless_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"key,nomber\na,1\n")
    with pytest.raises(UnknownField, match=r"no field 'nomber'.*--ignore nomber"):
        read(tmp_path / "file", "csv")
    layout = Layout(EVERYTHING, ignored=frozenset({"nomber"}))
    with open_input(str(tmp_path / "file"), None) as source:
        (row,) = csv_rows(source, layout, START)
    assert document_of(layout, row)[0] == "a"


def test_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InvalidOperation, match="cannot be read as Parquet"):
        ParquetRows(str(tmp_path / "file"), LAYOUT)
