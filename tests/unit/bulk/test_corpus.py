"""Files as programs write them, and the rows that they hold."""

from __future__ import annotations

import decimal
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atoll import Collection
from atoll.bulk.files import open_input
from atoll.bulk.parquet import ParquetRows
from atoll.bulk.reading import Layout, Position, Row, copied_rows, csv_rows, document_of, json_rows
from atoll.errors import InvalidDocument, InvalidOperation, RequestError
from atoll.schema import compile_collection


class Sale(Collection):
    name: str = ""
    note: str | None = None
    count: int = 0
    ratio: float | None = None
    paid: bool = False
    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    took: timedelta | None = None
    price: decimal.Decimal | None = None
    blob: bytes = b""
    ref: UUID | None = None
    words: list[str] = []  # noqa: RUF012 (pydantic copies it)
    moments: list[str] = []  # noqa: RUF012


SCHEMA = compile_collection(Sale)
UTC_MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
MOMENT = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 (of a file that says no zone)
DAY = date(2026, 1, 2)
PRICE = decimal.Decimal("12.50")


class File(NamedTuple):
    text: bytes
    rows: dict[str, dict[str, Any]]
    """key → the fields that are not at their defaults"""
    kind: str = "csv"
    delimiter: str = ","
    ignored: frozenset[str] = frozenset()
    backslash: bool = False


FILES = {
    "Excel, CSV UTF-8": File(
        b"\xef\xbb\xbfkey,name,count,paid,price\r\n"
        b'1,"K\xc3\xa4se, ""alt""",5,TRUE,12.50\r\n'
        b'002,"two\nlines",-3,FALSE,\r\n',
        {
            "1": {"name": 'Käse, "alt"', "count": 5, "paid": True, "price": PRICE},
            "002": {"name": "two\nlines", "count": -3},
        },
    ),
    "Excel, quoted header": File(
        b'\xef\xbb\xbf"key","name","count"\r\n"a;1","x","7"\r\n', {"a;1": {"name": "x", "count": 7}}
    ),
    "Excel, a header with a delimiter in quotes": File(
        b'\xef\xbb\xbf"key";"Name; lang";name\r\na;1;x\r\n',
        {"a": {"name": "x"}},
        delimiter=";",
        ignored=frozenset({"Name; lang"}),
    ),
    "Google Sheets": File(
        b'key,name,note,paid,day\r\na,"say ""hi""","""hi""",TRUE,2026-01-02\r\nb," padded ",null,FALSE,',
        {
            "a": {"name": 'say "hi"', "note": '"hi"', "paid": True, "day": DAY},
            "b": {"name": " padded ", "note": "null"},
        },
    ),
    "pandas, to_csv with an index and integers beside missing ones": File(
        b",key,count,ratio,paid,at,day\n"
        b"0,a,5.0,1e+20,True,2026-01-02 03:04:05.678000+00:00,2026-01-02 00:00:00\n"
        b"1,b,,,False,,\n",
        {
            "a": {"count": 5, "ratio": 1e20, "paid": True, "at": UTC_MOMENT, "day": DAY},
            "b": {},
        },
        ignored=frozenset({""}),
    ),
    "PostgreSQL, COPY with CSV HEADER": File(
        b"key,name,note,count,ratio,paid,at,day,clock,price,blob,ref\n"
        b'a,"C:\\dir\\",,5,1.5,t,2026-01-02 03:04:05.678+00,2026-01-02,03:04:05,12.50,\\x6869ff,'
        b"00000000-0000-0000-0000-000000000001\n"
        b'b,"","",0,,f,,,,,\\x,\n',
        {
            "a": {
                "name": "C:\\dir\\",
                "count": 5,
                "ratio": 1.5,
                "paid": True,
                "at": UTC_MOMENT,
                "day": DAY,
                "clock": time(3, 4, 5),
                "price": PRICE,
                "blob": b"hi\xff",
                "ref": UUID(int=1),
            },
            "b": {"note": ""},
        },
    ),
    "PostgreSQL, FORCE_QUOTE *": File(
        b'key,note,count,paid\n"a","","5","t"\n"b",,"6","f"\n"c",,,\n',
        {"a": {"note": "", "count": 5, "paid": True}, "b": {"count": 6}, "c": {}},
    ),
    "DuckDB, COPY": File(
        b'key,note,paid,at,words\na,"",true,2026-01-02 03:04:05.678+00,"[""x"", ""y""]"\nb,,false,,[]\n',
        {"a": {"note": "", "paid": True, "at": UTC_MOMENT, "words": ["x", "y"]}, "b": {}},
    ),
    "DuckDB, TIMESTAMP_NS": File(b"key,at\na,2026-01-02 03:04:05.678000000+00\n", {"a": {"at": UTC_MOMENT}}),
    "Spark, CSV": File(
        b'key,name,note,at,paid\na,"x,y","",2026-01-02T03:04:05.678Z,true\nb,z,,2026-01-02T03:04:05.678Z,false\n',
        {
            "a": {"name": "x,y", "note": "", "at": UTC_MOMENT, "paid": True},
            "b": {"name": "z", "at": UTC_MOMENT},
        },
    ),
    "several lines, empty strings and a tab": File(
        b'key\tname\tnote\na\t"1\t2\r\n""3"""\t""\nb\tx\t\n',
        {"a": {"name": '1\t2\r\n"3"', "note": ""}, "b": {"name": "x"}},
        delimiter="\t",
    ),
    "Spark, CSV with its own escapes": File(
        b'key,name,note\na,"say \\"hi\\"",C:\\temp\nb,"C:\\\\temp, x\\\\",\\\nc,"\\"\\"","two\n\\"lines\\\\\\""\n'
        b'd,"","a\\\\\\"b"\n',
        {
            "a": {"name": 'say "hi"', "note": "C:\\temp"},
            "b": {"name": "C:\\temp, x\\", "note": "\\"},
            "c": {"name": '""', "note": 'two\n"lines\\"'},
            "d": {"note": 'a\\"b'},
        },
        backslash=True,
    ),
    "PostgreSQL, COPY as text with HEADER": File(
        b"key\tname\tnote\tcount\tpaid\tat\tblob\n"
        b"a\tC:\\\\dir\\ttab\\nline\\x41\\102\t\\\\N\t5\tt\t2026-01-02 03:04:05.678+00\t\\\\x6869\n"
        b'b\t"q"\t\t0\tf\t\\N\t\\\\x\nc\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\n',
        {
            "a": {
                "name": "C:\\dir\ttab\nlineAB",
                "note": "\\N",
                "count": 5,
                "paid": True,
                "at": UTC_MOMENT,
                "blob": b"hi",
            },
            "b": {"name": '"q"', "note": ""},
            "c": {},
        },
        "copy",
    ),
    "Excel, Unicode text": File(
        'key\tname\tnote\r\n1\t"Käse, ""alt"""\té\U0001f3dd\r\n'.encode("utf-16"),
        {"1": {"name": 'Käse, "alt"', "note": "é\U0001f3dd"}},
        delimiter="\t",
    ),
    "UTF-16 with the other order of bytes": File(
        b"\xfe\xff" + "key,name\na,Ä\nb,\n".encode("utf-16-be"), {"a": {"name": "Ä"}, "b": {}}
    ),
    "pandas, to_json lines with missing integers": File(
        b'{"key":"a","count":5.0}\n{"key":"b","count":-9007199254740992.0}\n',
        {"a": {"count": 5}, "b": {"count": -(2**53)}},
        "jsonl",
    ),
    "pandas, to_json lines": File(
        b'{"key":"a","name":"a\\/b","note":null,"count":5,"at":"2026-01-02T03:04:05.678Z"}\n',
        {"a": {"name": "a/b", "count": 5, "at": UTC_MOMENT}},
        "jsonl",
    ),
    "DuckDB, COPY with FORMAT json": File(
        b'{"key":"a","note":"","at":"2026-01-02 03:04:05.678+00","day":"2026-01-02","blob":"\\\\x6869"}\n',
        {"a": {"note": "", "at": UTC_MOMENT, "day": DAY, "blob": b"hi"}},
        "jsonl",
    ),
}


def shown(layout: Layout, rows: list[Row]) -> dict[str, dict[str, Any]]:
    found = {}
    for row in rows:
        key, text = document_of(layout, row)
        found[key] = SCHEMA.to_model(key, text).model_dump(exclude_defaults=True, exclude={"key"})
    return found


def text_rows(path: Path, file: File, start: Position = Position()) -> tuple[Layout, list[Row]]:  # noqa: B008
    layout = Layout(SCHEMA, delimiter=file.delimiter, ignored=file.ignored, backslash=file.backslash)
    with open_input(str(path), None) as source:
        reader = {"csv": csv_rows, "copy": copied_rows, "jsonl": json_rows}[file.kind]
        return layout, list(reader(source, layout, start))


@pytest.mark.parametrize("program", FILES)
def test_a_file_holds_what_it_says(tmp_path: Path, program: str) -> None:
    file = FILES[program]
    (tmp_path / "file").write_bytes(file.text)
    layout, rows = text_rows(tmp_path / "file", file)
    assert shown(layout, rows) == file.rows
    for at, row in enumerate(rows):
        rest = text_rows(tmp_path / "file", file, row.end)[1]
        assert shown(layout, rest) == dict(list(file.rows.items())[at + 1 :])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("key,name\na,b\n".encode("utf-16")[:-1], "damaged or cut off: 'utf-16-le'"),
        ("key;name\nk;Käse\n".encode("cp1252"), "separated by ';'; give --delimiter ';'"),
        ("key,name\nk,Käse\n".encode("cp1252"), "line 2: not UTF-8 at byte 3"),
        (b'key,name\na,"say \\"hi\\""\n', "line 2: not CSV: .*give --backslash"),
        (b"key,name\ra,b\r", "line 1: not CSV: a carriage return"),
    ],
)
def test_a_file_in_another_form_is_refused(tmp_path: Path, text: bytes, problem: str) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(InvalidOperation, match=problem):
        text_rows(tmp_path / "file", File(b"", {}))


@pytest.mark.parametrize(
    ("header", "cell", "problem"),
    [
        ("at", "2026-01-02 03:04:05.123456789", "at: must be a valid datetime"),
        ("day", "02.01.2026", "day: must be a valid date"),
        ("day", "2026-01-02 03:00:00", "day: must be a valid date"),
        ("price", '"12,50"', "price: must be a valid decimal"),
        ("count", "5.5", "count: must be a valid integer"),
        ("count", "1e3", "count: must be a valid integer"),
        ("paid", "yes", "paid: 'yes' is no boolean"),
        ("words", '"{x,y}"', "words: '{x,y}' is no array"),
        ("blob", "\\x686", "blob: "),
        ("at", "infinity", "at: must be a valid datetime"),
        ("ratio", "NaN", "ratio: 'NaN' is no"),
    ],
)
def test_a_cell_that_would_change_is_refused(tmp_path: Path, header: str, cell: str, problem: str) -> None:
    (tmp_path / "file").write_bytes(f"key,{header}\na,{cell}\n".encode())
    layout, (row,) = text_rows(tmp_path / "file", File(b"", {}))
    with pytest.raises(RequestError, match=f"sale: {problem}"):
        document_of(layout, row)


# -- Parquet -------------------------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, pa.Array], **options: Any) -> dict[str, Any]:
    """key → its fields, or the problem of its row."""
    count = len(next(iter(columns.values())))
    keys = columns.get("key", pa.array([f"k{n}" for n in range(count)]))
    pq.write_table(pa.table({**columns, "key": keys}), path / "file", **options)
    layout, found = Layout(SCHEMA), {}
    with closing(ParquetRows(str(path / "file"), layout)) as reader:
        for row in reader.rows(Position()):
            try:
                found |= shown(layout, [row])
            except InvalidDocument as error:
                found[f"k{row.place - 1}"] = error.message
    return found


NS = 1767323045678000000


def test_parquet_of_pandas(tmp_path: Path) -> None:
    """Moments are in nanoseconds, dates are moments, and integers beside missing values are floats."""
    columns = {
        "at": pa.array([NS, None], pa.timestamp("ns", "UTC")),
        "day": pa.array([NS // 10**9 // 86400 * 86400 * 10**9, None], pa.timestamp("ns")),
        "count": pa.array([5.0, None]),
        "name": pa.array(["x", "y"]).dictionary_encode(),
        "clock": pa.array([11045 * 10**9, None], pa.time64("ns")),
        "took": pa.array([90 * 10**9, None], pa.duration("ns")),
    }
    assert parquet(tmp_path, columns) == {
        "k0": {
            "at": UTC_MOMENT,
            "day": DAY,
            "count": 5,
            "name": "x",
            "clock": time(3, 4, 5),
            "took": timedelta(seconds=90),
        },
        "k1": {"name": "y"},
    }


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("at", pa.timestamp("ns")),
        ("at", pa.timestamp("ns", "UTC")),
        ("clock", pa.time64("ns")),
        ("took", pa.duration("ns")),
    ],
)
def test_nanoseconds_are_exact_or_refused(tmp_path: Path, field: str, kind: pa.DataType) -> None:
    found = parquet(tmp_path, {field: pa.array([1000, 1, None, 1001, 2000], kind)})
    assert [isinstance(each, str) for each in found.values()] == [False, True, False, True, False]
    assert found["k1"].startswith(f"sale: {field}: ")
    assert found["k2"] == {}


def test_nanoseconds_in_a_string_field_are_kept(tmp_path: Path) -> None:
    columns = {
        "name": pa.array([1, 1000], pa.timestamp("ns")),
        "moments": pa.array([[1000], [1]], pa.list_(pa.timestamp("ns"))),
    }
    found = parquet(tmp_path, columns)
    assert found["k0"] == {
        "name": "1970-01-01 00:00:00.000000001",
        "moments": ["1970-01-01T00:00:00.000001"],
    }
    assert "moments: cannot be read exactly" in found["k1"]


def test_moments_beyond_python_are_refused(tmp_path: Path) -> None:
    found = parquet(tmp_path, {"at": pa.array([0, 10**18], pa.timestamp("us"))})
    assert found["k0"] == {"at": datetime(1970, 1, 1)}  # noqa: DTZ001 (the file says no zone)
    assert found["k1"].startswith("sale: at: must be a valid datetime")


def test_parquet_of_spark(tmp_path: Path) -> None:
    """Moments are INT96, reach from the year 1 to 9999; text may be binary."""
    moments = [datetime(9999, 12, 31), datetime(1, 1, 1), MOMENT]  # noqa: DTZ001 (the file says no zone)
    columns = {
        "key": pa.array([b"k0", b"k1", b"k2"]),
        "at": pa.array(moments, pa.timestamp("us")),
        "name": pa.array([b"K\xc3\xa4se", b"", None]),
        "words": pa.array([[b"x"], [], None], pa.list_(pa.binary())),
        "count": pa.array([b"5", None, b"6"]),
        "blob": pa.array([b"hi\xff", None, b""]),
    }
    assert parquet(tmp_path, columns, use_deprecated_int96_timestamps=True) == {
        "k0": {"at": moments[0], "name": "Käse", "words": ["x"], "count": 5, "blob": b"hi\xff"},
        "k1": {"at": moments[1]},
        "k2": {"at": moments[2], "count": 6},
    }


def test_moments_of_spark_are_in_utc(tmp_path: Path) -> None:
    """As Spark says in the file; those of other programs are as a clock shows them."""
    table = pa.table(
        {"key": ["a", "b", "c"], "at": pa.array([1_000, 10**15 + 1, None], pa.timestamp("ns"))}
    ).replace_schema_metadata({"org.apache.spark.version": "4.0"})
    pq.write_table(table, tmp_path / "file", use_deprecated_int96_timestamps=True)
    with closing(ParquetRows(str(tmp_path / "file"), Layout(SCHEMA))) as reader:
        first, second, third = reader.rows(Position())
    assert shown(Layout(SCHEMA), [first, third]) == {
        "a": {"at": datetime(1970, 1, 1, 0, 0, 0, 1, UTC)},
        "c": {},
    }
    with pytest.raises(InvalidDocument, match="more than 6 digits"):
        document_of(Layout(SCHEMA), second)


def test_nanoseconds_of_int96_are_exact_or_refused(tmp_path: Path) -> None:
    columns = {"at": pa.array([1, 1000, None, -1], pa.timestamp("ns"))}
    found = parquet(tmp_path, columns, use_deprecated_int96_timestamps=True)
    assert [isinstance(each, str) for each in found.values()] == [True, False, False, True]


def test_binary_that_is_no_text_is_refused(tmp_path: Path) -> None:
    found = parquet(tmp_path, {"name": pa.array([b"\xff", b"ok"])})
    assert "name: binary, and not UTF-8 text; a field of bytes takes it" in found["k0"]
    assert found["k1"] == {"name": "ok"}


def test_parquet_of_duckdb(tmp_path: Path) -> None:
    columns = {
        "ref": pa.array([UUID(int=1).bytes, None], pa.binary(16)),
        "price": pa.array([PRICE, None], pa.decimal128(18, 2)),
        "note": pa.array(["", None]),
        "at": pa.array([UTC_MOMENT, None], pa.timestamp("us", "UTC")),
    }
    assert parquet(tmp_path, columns) == {
        "k0": {"ref": UUID(int=1), "price": PRICE, "note": "", "at": UTC_MOMENT},
        "k1": {},
    }
