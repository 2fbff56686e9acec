"""A collection with a field of every kind."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from atoll import BoundedCounter, Collection, Counter, ListOf, MapOf, SetOf, Text
from atoll.schema import compile_collection


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Everything(Collection):
    text: str = ""
    maybe: str | None = None
    number: int = 0
    ratio: float | None = None
    flag: bool = False
    at: datetime | None = None
    day: date = date(2026, 1, 2)
    price: Decimal = Decimal("1.50")
    uuid: UUID | None = None
    data: bytes = b""
    colour: Colour = Colour.RED
    level: Literal["low", 1, 2] = "low"
    either: int | str = 0
    anything: Any = None
    words: list[str] = []  # noqa: RUF012 (pydantic copies it)
    nested: dict[str, Any] = {}  # noqa: RUF012
    seen: Counter
    stock: BoundedCounter = 3
    tags: SetOf[str]
    steps: ListOf[int]
    labels: MapOf[int]
    body: Text


EVERYTHING = compile_collection(Everything)
