from __future__ import annotations

import re
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Network
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AllowInfNan,
    AnyUrl,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FutureDate,
    FutureDatetime,
    HttpUrl,
    Json,
    JsonValue,
    NaiveDatetime,
    PastDate,
    PlainSerializer,
    PositiveInt,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    StringConstraints,
    WrapSerializer,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import core_schema
from typing_extensions import TypedDict

from atoll.errors import DeclarationError, InvalidDocument
from atoll.schema import Add, Collection, Counter, ListOf, MapOf, SetOf
from atoll.schema.compiled import compile_collection
from atoll.schema.models import operators_of

from .test_collection import declare

T = TypeVar("T")
COUNT = count()


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Point(BaseModel):
    x: int
    y: int = 0


class Pixel(BaseModel):
    x: int
    y: int = 0


class Named(BaseModel):
    name: str


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    lives: int = 1


class Tree(BaseModel):
    value: int
    below: list[Tree] = []


class Pair(NamedTuple):
    a: int
    b: str


class Options(TypedDict):
    wide: bool
    depth: NotRequired[int]


@dataclass
class Size:
    width: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Made:
    width: int
    factor: InitVar[int] = 1


class Box(BaseModel, Generic[T]):
    content: T


class Area(BaseModel):
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.a


class Hidden(BaseModel):
    a: int
    b: int = Field(1, exclude=True)


class Aliased(BaseModel):
    a: int = Field(alias="A")


class ReadAs(BaseModel):
    a: int = Field(validation_alias=AliasChoices("a", "b"))


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    a: int


class Shout(BaseModel):
    a: str

    @field_serializer("a")
    def louder(self, a: str) -> str:
        return a.upper()


class AsText(BaseModel):
    a: int

    @model_serializer
    def text(self) -> str:
        return str(self.a)


class Private(BaseModel):
    a: int
    _b: int = PrivateAttr(1)


class Login(BaseModel):
    user: str
    password: SecretStr


class Counted(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def one_more(cls, n: int) -> int:
        return n + 1


class Lower(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def lower(cls, name: str) -> str:
        return name.strip().lower()


class Utf8(BaseModel):
    data: bytes


class Whole(RootModel[int]):
    pass


class Whole2(RootModel[int]):
    pass


class Price(Enum):
    LOW = Decimal("1.50")


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class OpenOptions(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    a: int


@dataclass
class Unborn:
    a: int
    b: int = field(default=1, init=False)


class Unfit(BaseModel):
    a: int = "x"  # type: ignore[assignment]


class Swapped(BaseModel):
    """Whose validator is stable only where both are alike."""

    a: int = 0
    b: int = 0

    @model_validator(mode="after")
    def swap(self) -> Swapped:
        self.a, self.b = self.b, self.a
        return self


class Base(BaseModel):
    kind: str = "base"


class Later(Base):
    kind: str = "later"
    n: int = 0


class Zone:
    """Written by a function, and known to no other serializer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Zone) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, core_schema.str_schema()),
            python_schema=core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda zone: zone.name),
        )


class Kept(BaseModel):
    """With a member that is no field, and a moment in the hour that a zone has twice."""

    at: datetime

    @cached_property
    def year(self) -> int:
        return self.at.year


class Money:
    """With a form of its own in JSON, which it also reads."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.cents == other.cents

    __hash__ = None  # type: ignore[assignment]


MONEY = Annotated[
    int, AfterValidator(lambda cents: cents), PlainSerializer(lambda cents: cents, return_type=int)
]


@pytest.mark.parametrize(
    "type_",
    [
        int,
        float,
        bool,
        str,
        bytes,
        Decimal,
        date,
        time,
        datetime,
        timedelta,
        UUID,
        Any,
        JsonValue,
        None,
        Colour,
        Level,
        Word,
        Literal["a", 1, None],
        IPv4Address | None,
        IPv6Network | None,
        Path | None,
        re.Pattern[str] | None,
        HttpUrl | None,
        AnyUrl | None,
        PositiveInt,
        AwareDatetime,
        NaiveDatetime,
        PastDate,
        list[int],
        tuple[int, str],
        tuple[int, ...],
        dict[str, Decimal],
        dict[UUID, int],
        Sequence[int],
        Mapping[str, int],
        deque[int],
        Point,
        Tree,
        Pair,
        Options,
        Size,
        Box[int],
        Base64,
        Box[Base64],
        Box[Decimal | None],
        list[Point],
        dict[str, Tree],
        Lower,
        Whole,
        Whole | str,
        Annotated[list[int], AfterValidator(sorted)],
        RootModel[list[int]],
        Point | None,
        int | str | None,
        int | float,
        bool | int | str,
        Decimal | int,
        date | int,
        list[int] | str,
        Cat | Dog,
        Annotated[Cat | Dog, Field(discriminator="kind")],
        list[Cat | Dog],
        Point | Named,
        Size | Named,
        Literal["none"] | int,
        Colour | int,
        dict,
        list | None,
        Sequence,
        SetOf[IPv4Address],
        SetOf[Annotated[int, AfterValidator(abs)]],
        Zone,
        Kept,
        tuple[int] | tuple[int, int],
        Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)],
        Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}-\d{4}$")],
        Annotated[str, AfterValidator(str.title)],
        Annotated[int, Field(ge=5, multiple_of=5)],
        Annotated[str, AfterValidator(lambda text: text if text.startswith("S-") else f"S-{text}")],
        SetOf[int],
        SetOf[str],
        SetOf[Decimal],
        SetOf[datetime],
        SetOf[UUID | int],
        SetOf[Colour],
        SetOf[str | int],
        SetOf[bytes],
        ListOf[Point],
        ListOf[Cat | Dog],
        ListOf[int | float | bool],
        MapOf[Point],
        MapOf[Decimal | None],
        MONEY,
    ],
)
def test_what_is_kept_may_be_declared(type_: Any) -> None:
    declare(a=type_)


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        (Area, r"Bad\.a\.twice: .*computed_field"),
        (list[Area], "computed_field"),
        (MapOf[Area], "computed_field"),
        (Hidden, r"Bad\.a\.b: .*excluded"),
        (ListOf[Hidden], "excluded"),
        (Aliased, "alias"),
        (ReadAs, "alias"),
        (Camel, "alias"),
        (dict[str, Aliased | None], "alias"),
        (Shout, "serializer"),
        (AsText, "serializer"),
        (Box[Shout], "serializer"),
        (Private, "never stored"),
        (Made, "InitVar"),
        (SecretStr, "asterisks"),
        (SecretBytes, "asterisks"),
        (Secret[int], "asterisks"),
        (Login, r"Bad\.a\.password: .*asterisks"),
        (Iterable[int], "iterator"),
        (list[Iterable[str]], "iterator"),
        (Iterator[int], "JSON cannot"),
        (Hashable, "JSON cannot"),
        (FutureDate, "future"),
        (FutureDatetime, "future"),
        (Json[list[int]], "JsonValue"),
        (Counted, "read as"),
        (Whole | int, "differ"),
        (Whole | Whole2, "differ"),
        (type[int], "a class"),
        (Annotated[list[int], AfterValidator(lambda numbers: numbers[::-1])], "read as"),
        (Price, "an enum's members"),
        (Literal[Colour.RED], "literals"),
        (Literal[b"a"], "literals"),
        (Open, 'extra="allow"'),
        (OpenOptions, 'extra="allow"'),
        (Unborn, r"Bad\.a\.b: .*init=False"),
        (Unfit, "not allowed"),
        (list[Swapped], "read as"),
        (Annotated[float, AllowInfNan(True)], "NaN"),
        (Annotated[Decimal, AllowInfNan(True)], "NaN"),
        (Annotated[float, PlainSerializer(lambda x: round(x, 2))], "read as"),
        (dict[int | str, int], "names of an object's members"),
        (dict[str | None, int], "names of an object's members"),
        (Word | str, "differ"),
        (Level | int, "differ"),
        (Literal["1"] | Decimal, "differ"),
        (Literal["2024-01-01"] | date, "differ"),
        (list[Later | Base], "differ"),
        (list[Counted], "read as"),
        (MapOf[Counted], "read as"),
        (Annotated[int, AfterValidator(lambda n: n * 2)], "read as"),
        (Annotated[str, AfterValidator(int)], "not allowed"),
        (Annotated[str, AfterValidator(lambda text: f"<{text}>")], "read as"),
        (Annotated[str, AfterValidator(lambda text: text + uuid4().hex)], "read as"),
        (Annotated[int, AfterValidator(lambda n: next(COUNT))], "read as"),
        (Annotated[int, PlainSerializer(lambda n: n + 1)], "read as"),
        (Annotated[str, PlainSerializer(lambda text: "***")], "read as"),
        (Annotated[int, PlainSerializer(str)], "not allowed"),
        (Annotated[int, WrapSerializer(lambda n, write: [write(n)])], "not allowed"),
        (Annotated[int, BeforeValidator(lambda n: n + 1)], "read as"),
        (Point | Pixel, "look|differ"),
        (list[Point | Pixel], "differ"),
        (Point | dict[str, int], "differ"),
        (dict[str, Point | Pixel], "differ"),
        (str | UUID, "differ"),
        (UUID | str, "differ"),
        (Decimal | str, "differ"),
        (str | datetime, "differ"),
        (bytes | str, "differ"),
        (Colour | str, "differ"),
        (date | str, "differ"),
        (IPv4Address | str, "differ"),
        (HttpUrl | str, "differ"),
        (Path | str, "differ"),
        (list[int] | tuple[int, ...], "differ"),
        (timedelta | str, "differ"),
        (Utf8, "ser_json_bytes"),
        (SetOf[int | bool], "equal values"),
        (SetOf[Literal[1, True]], "equal values"),
        (SetOf[int | float], "equal values"),
        (SetOf[Decimal | int], "equal values"),
    ],
)
def test_what_is_not_kept_is_refused_with_its_reason(type_: Any, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason) as caught:
        declare(a=type_)
    assert caught.value.message.startswith("Bad")


def test_validators_of_the_collection_are_tried_too() -> None:
    with pytest.raises(DeclarationError, match="read as"):

        class Ticket(Collection):
            n: int

            @model_validator(mode="after")
            def count(self) -> Ticket:
                self.n += 1
                return self

    with pytest.raises(DeclarationError, match="read as"):

        class Counted1(Collection):
            n: int

            def model_post_init(self, context: Any) -> None:
                self.n += 1

    with pytest.raises(DeclarationError, match="read as"):

        class Counted2(Collection):
            n: int

            def __init__(self, **given: Any) -> None:
                super().__init__(**{**given, "n": given["n"] + 1})

    with pytest.raises(DeclarationError, match="not allowed"):

        class Texts(Collection):
            n: int

            @field_validator("n")
            @classmethod
            def text(cls, n: int) -> str:
                return str(n)

    class Account(Collection):
        name: str
        n: int = 0

        @field_validator("name")
        @classmethod
        def tidy(cls, name: str) -> str:
            return name.strip()


class Notes(Collection):
    found: re.Pattern[str] | None = None
    bare: list = []  # noqa: RUF012
    names: dict = {}  # noqa: RUF012
    share: Annotated[float, PlainSerializer(lambda value: float(f"{value:.5f}"))] = 0.0
    anything: Any = None
    point: Point | None = None
    many: list[Any] = []  # noqa: RUF012


class Point3(Point):
    z: int = 0


@pytest.mark.parametrize(
    "given",
    [
        {"anything": datetime(2024, 1, 1, tzinfo=UTC)},
        {"anything": Decimal(1)},
        {"found": re.compile("a", re.IGNORECASE)},
        {"bare": [Decimal(1)]},
        {"names": {1: 1}},
        {"share": 0.0000001},
        {"anything": {"a": [b"a"]}},
        {"many": [date(2024, 1, 1)]},
        {"point": Point3(x=1, z=2)},
    ],
)
def test_a_value_that_would_come_back_as_another_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument, match="would come back as"):
        compile_collection(Notes).from_model(Notes(key="k", **given))


def test_a_value_that_would_change_is_refused_beside_validators_too() -> None:
    class Ruled(Notes):
        @field_validator("many")
        @classmethod
        def order(cls, many: list[Any]) -> list[Any]:
            return sorted(many, key=str)

    schema = compile_collection(Ruled)
    with pytest.raises(InvalidDocument, match="would come back as"):
        schema.from_model(Ruled(key="k", anything=Decimal(1)))
    ruled = Ruled(key="k")
    ruled.many = ["b", "a"]
    assert schema.document_of(ruled)["many"] == ["a", "b"]


def test_moments_of_an_hour_that_is_twice_are_themselves() -> None:
    class Log(Collection):
        entry: Kept

    for fold in (0, 1):
        at = datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))
        entry = Kept(at=at)
        assert entry.year == 2024  # and so held in its __dict__
        schema = compile_collection(Log)
        read: Any = schema.to_model("k", schema.from_model(Log(key="k", entry=entry)))
        assert read.entry.at.astimezone(UTC) == at.astimezone(UTC)


def test_defaults_are_values_and_not_their_json() -> None:
    class Host(Collection):
        address: IPv4Address = IPv4Address("10.0.0.1")
        path: Path | None = Path("/a")
        zone: Zone = Field(default_factory=lambda: Zone("UTC"))
        tags: SetOf[str] = Field(default_factory=lambda: {"new"})
        n: Counter = Field(default_factory=lambda: 7)

    schema = compile_collection(Host)
    text = b'{"address":"10.0.0.1","path":"/a","zone":"UTC","tags":["new"],"n":7}'
    assert schema.canonical(b"{}") == schema.from_model(Host(key="k")) == text
    assert schema.to_model("k", b"{}") == Host(key="k")
    assert schema.default_of("zone") == "UTC"


def test_a_default_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DeclarationError, match="does not fit"):
        declare(a=(IPv4Address, Path("/a")))


def test_a_value_is_written_as_its_type_is() -> None:
    class Clock(Collection):
        zone: Zone
        zones: ListOf[Zone]

    schema = compile_collection(Clock)
    assert operators_of(schema, {"zone": Zone("CET"), "zones": Add(Zone("EET"))}) == {
        "$set": {"zone": "CET"},
        "$add": {"zones": ["EET"]},
    }


def test_values_of_json_are_taken_by_any() -> None:
    notes = Notes(key="k", anything={"a": (1, "b", None)}, many=[1, 1.5, True], point=Point(x=1))
    schema = compile_collection(Notes)
    assert schema.to_model("k", schema.from_model(notes)) == notes.model_copy(
        update={"anything": {"a": [1, "b", None]}}
    )


class Odd(Collection):
    """A validator that is wrong for few values only, which no trial may meet."""

    name: str = ""
    code: Annotated[str, AfterValidator(lambda text: text.removeprefix("x-"))] = ""

    @field_validator("name")
    @classmethod
    def shorter(cls, name: str) -> str:
        return name.replace("((", "(")


@pytest.mark.parametrize("given", [{"name": "((("}, {"code": "x-x-1"}])
def test_a_validator_that_changes_its_own_result_is_refused_at_the_write(given: dict[str, str]) -> None:
    schema = compile_collection(Odd)
    with pytest.raises(InvalidDocument, match="changes what it returned"):
        schema.parse_object(given)
    if "code" in given:
        with pytest.raises(InvalidDocument, match=r"Odd\.code: a validator changes"):
            schema.validate_field("code", given["code"])
    assert schema.parse_object({"name": "((", "code": "x-1"}) == {"name": "(", "code": "1"}


def test_a_validator_that_fails_otherwise_refuses_the_value() -> None:
    class Table(Collection):
        unit: Annotated[str, AfterValidator({"m": "metre", "metre": "metre"}.__getitem__)] = "m"

    schema = compile_collection(Table)
    assert schema.validate_field("unit", "m") == "metre"
    for refused in (
        lambda: schema.validate_field("unit", "ell"),
        lambda: schema.canonical(b'{"unit":"ell"}'),
    ):
        with pytest.raises(InvalidDocument, match="KeyError"):
            refused()


def test_single_fields_follow_the_configuration_of_the_collection() -> None:
    class Tidy(Collection):
        model_config = ConfigDict(str_strip_whitespace=True, str_to_lower=True)
        name: str
        tags: SetOf[str]

    schema = compile_collection(Tidy)
    assert schema.parse_object({"name": " Ann ", "tags": [" A"]}) == {"name": "ann", "tags": ["a"]}
    assert schema.validate_field("name", " Ann ") == "ann"
    assert schema.validate_element("tags", " A") == "a"


def test_a_configuration_that_writes_what_it_does_not_read_is_refused() -> None:
    with pytest.raises(DeclarationError, match="is not allowed"):

        class Bad(Collection):
            model_config = ConfigDict(ser_json_timedelta="float")
            length: timedelta


def test_a_member_that_is_excluded_at_times_is_refused() -> None:
    with pytest.raises(DeclarationError, match="exclude"):
        declare(a=(int, Field(1, exclude_if=lambda value: value == 1)))
