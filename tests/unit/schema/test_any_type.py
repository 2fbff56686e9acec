"""Types put together at random: each is kept on every road, or refused where it is declared."""

from __future__ import annotations

import io
import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, ConfigDict, Field, create_model

from atoll.bulk.files import Input
from atoll.bulk.parquet import ParquetRows, write_parquet
from atoll.bulk.reading import Layout, Position, csv_rows, document_of, json_rows
from atoll.bulk.writing import csv_writer, json_lines_writer
from atoll.errors import DeclarationError
from atoll.schema import ListOf, MapOf, SetOf
from atoll.schema.compiled import CollectionSchema, compile_collection
from atoll.schema.exact import same_value
from atoll.schema.models import operators_of

from .test_collection import declare


class Colour(Enum):
    RED = "red"
    NONE = ""


class Level(IntEnum):
    LOW = 1
    HIGH = 2**40


class Kind(NamedTuple):
    """A type, and values of it."""

    type: Any
    values: st.SearchStrategy[Any]


ZONES = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TEXTS = st.text(max_size=5) | st.sampled_from(["null", "1", "true", "2024-01-01", '"', ",", "\\N", "P1D"])
LEAVES = [
    Kind(bool, st.booleans()),
    Kind(int, st.integers(-(2**63), 2**63 - 1)),
    Kind(float, st.floats(allow_nan=False, allow_infinity=False)),
    Kind(str, TEXTS),
    Kind(bytes, st.binary(max_size=5)),
    Kind(Decimal, st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)),
    Kind(datetime, st.datetimes(timezones=ZONES)),
    Kind(date, st.dates()),
    Kind(time, st.times()),
    Kind(timedelta, st.timedeltas()),
    Kind(UUID, st.uuids()),
    Kind(Colour, st.sampled_from(Colour)),
    Kind(Level, st.sampled_from(Level)),
    Kind(Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    Kind(IPv4Address, st.ip_addresses(v=4)),
    Kind(IPv6Address, st.ip_addresses(v=6)),
    Kind(Path, st.sampled_from([Path("/a"), Path("."), Path("é/b")])),
    Kind(AnyUrl, st.sampled_from([AnyUrl("http://a/"), AnyUrl("x:y")])),
    Kind(Annotated[int, Field(ge=3)], st.integers(3, 9)),
]


def model_of(kinds: list[Kind]) -> Kind:
    fields: dict[str, Any] = {f"f{n}": (kind.type, ...) for n, kind in enumerate(kinds)}
    model = create_model(
        "Inner", __config__=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"), **fields
    )
    given = st.fixed_dictionaries({f"f{n}": kind.values for n, kind in enumerate(kinds)})
    return Kind(model, given.map(lambda members: model(**members)))


def wider(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    return st.one_of(
        inner.map(lambda kind: Kind(list[kind.type], st.lists(kind.values, max_size=3))),  # type: ignore[name-defined]
        inner.map(lambda kind: Kind(tuple[kind.type, ...], st.lists(kind.values, max_size=3).map(tuple))),  # type: ignore[name-defined]
        inner.map(lambda kind: Kind(dict[str, kind.type], st.dictionaries(TEXTS, kind.values, max_size=3))),  # type: ignore[name-defined]
        inner.map(lambda kind: Kind(kind.type | None, st.none() | kind.values)),
        st.lists(inner, min_size=1, max_size=3).map(model_of),
        st.tuples(inner, inner).map(
            lambda two: Kind(two[0].type | two[1].type, two[0].values | two[1].values)
        ),
        st.tuples(st.sampled_from(LEAVES), inner).map(
            lambda two: Kind(
                dict[two[0].type, two[1].type],  # type: ignore[name-defined]
                st.dictionaries(two[0].values, two[1].values, max_size=2),
            )
        ),
    )


PLAIN = st.recursive(st.sampled_from(LEAVES), wider, max_leaves=4)
KINDS = st.one_of(
    PLAIN,
    st.sampled_from(LEAVES).map(lambda kind: Kind(SetOf[kind.type], st.sets(kind.values, max_size=3))),
    PLAIN.map(lambda kind: Kind(ListOf[kind.type], st.lists(kind.values, max_size=3))),
    PLAIN.map(lambda kind: Kind(MapOf[kind.type], st.dictionaries(TEXTS, kind.values, max_size=3))),
)


def moved(schema: CollectionSchema, text: bytes, kind: str, folder: Path) -> list[tuple[str, bytes]]:
    layout = Layout(schema)
    if kind == "parquet":
        write_parquet(folder / "file", schema, [("k", text)])
        return [
            document_of(layout, row) for row in ParquetRows(str(folder / "file"), layout).rows(Position())
        ]
    writer = json_lines_writer() if kind == "jsonl" else csv_writer(schema, ",")
    data = io.BytesIO(writer.head + writer.block([("k", text)]))
    read = json_rows if kind == "jsonl" else csv_rows
    return [document_of(layout, row) for row in read(Input("f", data, None, False, data), layout, Position())]


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_whatever_is_declared_is_kept(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(KINDS)
    try:
        model = declare(a=kind.type)
    except DeclarationError:
        return
    schema = compile_collection(model)
    document = model(key="k", a=data.draw(kind.values))
    held: Any = document.a  # type: ignore[attr-defined]
    text = schema.from_model(document)
    read = schema.to_model("k", text)
    assert same_value(read.a, held), (kind.type, held, text)  # type: ignore[attr-defined]
    assert schema.canonical(text) == schema.form_of(document)[0] == schema.from_model(read) == text
    assert operators_of(schema, {"a": held}) == {"$set": json.loads(text)}
    assert schema.validate_field("a", json.loads(text)["a"]) == json.loads(text)["a"]
    for format in ("jsonl", "csv", "parquet"):
        assert moved(schema, text, format, tmp_path) == [("k", text)], format


@pytest.mark.parametrize("kind", LEAVES)
def test_each_single_type_may_be_declared(kind: Kind) -> None:
    declare(a=kind.type)
