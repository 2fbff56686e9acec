"""Values of every declared type are themselves: written, read, found, changed and moved."""

from __future__ import annotations

import io
import itertools
import operator
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, HttpUrl, IPvAnyAddress

import atoll
from atoll import Add, Collection, ListOf, MapOf, SetOf, Text
from atoll.bulk.files import Input
from atoll.bulk.parquet import ParquetRows, write_parquet
from atoll.bulk.reading import Layout, Position, csv_rows, document_of, json_rows
from atoll.bulk.writing import csv_writer, json_lines_writer
from atoll.embedded import EmbeddedDatabase
from atoll.errors import InvalidDocument, InvalidOperation
from atoll.schema import compile_collection


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Card(BaseModel):
    kind: Literal["card"]
    number: Decimal
    until: date


class Cash(BaseModel):
    kind: Literal["cash"]
    given: list[Decimal]


class Thing(Collection, indexes=["at", "amount", "day", "ref", "count", "name", "share"]):
    name: str
    count: int
    share: float
    flag: bool
    at: datetime
    local: datetime
    day: date
    clock: time
    length: timedelta
    amount: Decimal
    data: bytes
    ref: UUID
    colour: Colour
    address: IPv4Address | None = None
    any_address: IPvAnyAddress | None = None
    found: re.Pattern[str] | None = None
    site: HttpUrl | None = None
    paid: Card | Cash
    moments: list[datetime]
    amounts: SetOf[Decimal]
    times: SetOf[datetime]
    marks: SetOf[bytes]
    steps: ListOf[Decimal]
    prices: MapOf[Decimal]
    text: Text


THING = compile_collection(Thing)
ORDERED = ("name", "count", "share", "at", "local", "day", "clock", "amount", "data", "ref")
EQUAL = (*ORDERED, "flag", "length", "colour", "address", "any_address", "found", "site")
ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def things(random: Random, count: int) -> list[Thing]:
    """Few values of each type, so that many are equal, in other spellings."""
    zones = [timezone(timedelta(minutes=minutes)) for minutes in (0, 120, -330, 839, -720)]
    amounts = [
        Decimal(text) for text in ("9", "10", "9.0", "-1", "1E+3", "1000.00", "0.1000000000000000055511")
    ]
    day = datetime.fromisoformat("2024-02-29T23:00:00+00:00")
    seconds = (0, 0.5, 1, 86_399.999999)

    def moment() -> datetime:
        return (day + timedelta(seconds=random.choice(seconds))).astimezone(random.choice(zones))

    def some(values: Any) -> Any:
        return random.sample(values, random.randrange(len(values)))

    return [
        Thing(
            key=f"k{n:02}",
            name=random.choice(["", "a", "Z", "é", "\U0001f3dd", "a" * 200]),
            count=random.choice([0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1]),
            share=random.choice([0.0, 1.0, 0.1, 0.30000000000000004, 1e300, -1.5, float(2**53)]),
            flag=random.random() < 0.5,
            at=moment(),
            local=moment().replace(tzinfo=None),
            day=moment().date(),
            clock=moment().time(),
            length=timedelta(days=random.choice([0, 400, -1]), microseconds=random.choice([0, 1])),
            amount=random.choice(amounts),
            data=random.choice([b"", b"\x00", b"\xff\xfe", b"~~~", b"zz"]),
            ref=random.choice([UUID(int=1), UUID(int=2**127)]),
            colour=random.choice(list(Colour)),
            address=random.choice([None, IPv4Address("10.0.0.1"), IPv4Address("9.0.0.1")]),
            any_address=random.choice([None, IPv6Address("::1"), IPv4Address("9.0.0.1")]),
            found=random.choice([None, re.compile("a"), re.compile("")]),
            site=random.choice([None, HttpUrl("https://Example.com"), HttpUrl("https://example.com/a")]),
            paid=random.choice(
                [
                    Card(kind="card", number=random.choice(amounts), until=day.date()),
                    Cash(kind="cash", given=amounts),
                ]
            ),
            moments=[moment(), moment()],
            amounts=set(some(amounts)),
            times={moment() for _ in range(3)},
            marks=set(some([b"", b"\x00", b"\xff"])),
            steps=some(amounts),
            prices={str(n): amount for n, amount in enumerate(some(amounts))},
            text=random.choice(["", "a\nb", "é"]),
        )
        for n in range(count)
    ]


THINGS = things(Random(12), 40)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[EmbeddedDatabase]:
    async with atoll.open([Thing], data=tmp_path) as opened:
        yield opened


async def test_every_type_comes_back_as_it_was_put(db: EmbeddedDatabase) -> None:
    for thing in THINGS:
        assert await db.put(thing) == thing
        got = await db.get(Thing, thing.key)
        assert got == thing
        assert repr(got.at) == repr(thing.at) or got.at.utcoffset() == thing.at.utcoffset()
        version = (await db.read(Thing, thing.key)).version
        assert await db.put(got) == thing
        assert (await db.read(Thing, thing.key)).value == thing, version


async def test_every_type_is_found_as_what_it_is(db: EmbeddedDatabase) -> None:
    for thing in THINGS:
        await db.put(thing)

    async def found(*condition: Any) -> set[str]:
        return {thing.key async for thing in db.list(Thing, where=[condition])}

    for field in EQUAL:
        for asked in {getattr(thing, field): None for thing in THINGS}:
            held = {thing.key: getattr(thing, field) for thing in THINGS}
            assert await found(field, "eq", asked) == {
                key for key, value in held.items() if value == asked
            }, field
            assert await found(field, "ne", asked) == {
                key for key, value in held.items() if value != asked
            }, field
            for op, holds in ORDERS.items():
                if field in ORDERED:
                    wanted = {key for key, value in held.items() if holds(value, asked)}
                    assert await found(field, op, asked) == wanted, (field, op, asked)
    for field in ("amounts", "times", "marks", "steps", "moments"):
        for asked in {value: None for thing in THINGS for value in getattr(thing, field)}:
            wanted = {thing.key for thing in THINGS if asked in getattr(thing, field)}
            assert await found(field, "contains", asked) == wanted, (field, asked)


async def test_a_field_that_is_set_is_the_same_as_one_that_is_put(db: EmbeddedDatabase) -> None:
    for thing, other in itertools.pairwise(THINGS):
        await db.put(thing)
        changes = {name: getattr(other, name) for name in THING.fields}
        changed = await db.update(Thing, thing.key, **changes)
        assert changed == other.model_copy(update={"key": thing.key})


async def test_elements_that_are_added_are_those_that_are_put(db: EmbeddedDatabase) -> None:
    for thing in THINGS:
        await db.put(thing.model_copy(update={"amounts": set(), "times": set(), "marks": set()}))
        for name in ("amounts", "times", "marks"):
            twice = [*getattr(thing, name), *getattr(thing, name)]
            await db.update(Thing, thing.key, **{name: Add(*twice)})
        text = {name: THING.document_of(thing)[name] for name in ("amounts", "times", "marks")}
        added = (await db.texts(Thing, prefix=thing.key)).items[0][1]
        again = THING.document_of(THING.to_model(thing.key, added))
        assert {name: again[name] for name in text} == text
        version = (await db.read(Thing, thing.key)).version
        await db.put(await db.get(Thing, thing.key))
        assert len((await db.texts(Thing, prefix=thing.key)).items[0][1]) == len(added), version


async def test_equal_elements_are_one(db: EmbeddedDatabase) -> None:
    await db.put(THINGS[0].model_copy(update={"amounts": set()}))
    for element in ("1.0", "1.00", 1, "1"):
        await db.patch(Thing, "k00", {"$add": {"amounts": [element]}})
    got = await db.get(Thing, "k00")
    assert got is not None
    assert got.amounts == {Decimal(1)}
    await db.patch(Thing, "k00", {"$remove": {"amounts": ["1.000"]}})
    got = await db.get(Thing, "k00")
    assert got is not None
    assert got.amounts == set()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_type_moves_through_every_format(kind: str, tmp_path: Path) -> None:
    documents = [(thing.key, THING.from_model(thing)) for thing in THINGS]
    layout, path = Layout(THING), tmp_path / "things"
    if kind == "parquet":
        write_parquet(path, THING, documents)
        rows = ParquetRows(str(path), layout).rows(Position())
    else:
        writer = json_lines_writer() if kind == "jsonl" else csv_writer(THING, ",")
        data = io.BytesIO(writer.head + writer.block(documents))
        read = json_rows if kind == "jsonl" else csv_rows
        rows = read(Input("things", data, None, False, data), layout, Position())
    assert [document_of(layout, row) for row in rows] == documents


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("at", "gt", "yesterday"),
        ("at", "eq", 1700000000),
        ("at", "contains", "2024"),
        ("amount", "eq", "ten"),
        ("amount", "lt", "NaN"),
        ("amount", "lt", True),
        ("data", "eq", "%"),
        ("ref", "eq", "1"),
        ("day", "ge", "2024-02-30"),
        ("clock", "lt", "12:00:00+02:00"),
        ("length", "lt", timedelta(1)),
        ("address", "lt", IPv4Address("9.0.0.1")),
        ("any_address", "lt", IPv4Address("9.0.0.1")),
        ("found", "ge", re.compile("a")),
    ],
)
async def test_a_comparison_without_a_meaning_is_refused(
    db: EmbeddedDatabase, field: str, op: str, value: Any
) -> None:
    with pytest.raises(InvalidOperation, match=field):
        await db.texts(Thing, where=[(field, op, value)])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 12345678901234567890.12),
        ("at", "2024-01-01T00:00:00.0000001Z"),
        ("clock", "12:00:00.1234567"),
        ("length", "PT1.1234567S"),
        ("amount", "1E+1000"),
        ("steps", ["1E-2000"]),
    ],
)
async def test_no_digit_is_lost(db: EmbeddedDatabase, field: str, value: Any) -> None:
    document = {**THING.document_of(THINGS[0]), field: value}
    if field == "amount" and not isinstance(value, str):
        body = atoll_json(document, field, "12345678901234567890.12")
    else:
        body = atoll_json(document, field, None)
    with pytest.raises(InvalidDocument, match=field):
        THING.canonical(body)


def atoll_json(document: dict[str, Any], field: str, text: str | None) -> bytes:
    import json

    body = json.dumps({**document, field: "@"} if text else document)
    return body.replace('"@"', text or "").encode() if text else body.encode()
