from __future__ import annotations

import datetime
import enum
import uuid

import pytest

from atoll import BoundedCounter, Collection, Counter, SetOf, Text
from atoll.errors import DeclarationError
from atoll.region.shapes import shapes_of
from atoll.schema import application_of
from atoll.store.port import Shape


class Colour(enum.Enum):
    RED = "red"


class Parcel(Collection, indexes=["sku", "count", "sku"]):
    sku: str
    weight: float | None = None
    fragile: bool = False
    sent: datetime.datetime | None = None
    day: datetime.date | None = None
    id: uuid.UUID | None = None
    colour: Colour = Colour.RED
    count: Counter
    left: BoundedCounter
    tags: SetOf[str]
    note: Text
    either: int | str = 0
    stops: list[str]


def test_each_field_has_the_kind_of_its_declaration() -> None:
    assert shapes_of(application_of(Parcel)) == [
        Shape(
            "parcel",
            (
                ("sku", "text"),
                ("weight", "number"),
                ("fragile", "boolean"),
                ("sent", "time"),
                ("day", "date"),
                ("id", "uuid"),
                ("colour", "text"),
                ("count", "integer"),
                ("left", "integer"),
                ("tags", "json"),
                ("note", "text"),
                ("either", "json"),
                ("stops", "json"),
            ),
            ("sku", "count"),
        )
    ]


def test_an_index_changes_nothing_that_regions_agree_on() -> None:
    class Parcel(Collection):
        sku: str

    plain = application_of(Parcel).fingerprint()

    class Parcel(Collection, indexes=["sku"]):  # type: ignore[no-redef]
        sku: str

    assert application_of(Parcel).fingerprint() == plain


@pytest.mark.parametrize(
    ("indexes", "reason"),
    [
        ("sku", "not a list of fields"),
        (["sko"], "did you mean sku"),
        (["tags"], "single values"),
        ([3], "not a list"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(indexes: list[str], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):

        class Parcel(Collection, indexes=indexes):
            sku: str
            tags: SetOf[str]
