"""The collections that the built-in workloads write: every strategy, field kind and placement once.

A few are declared in three versions, between which a rollout moves one region after the other.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from atoll.schema.application import Application, application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import BoundedCounter, Counter, ListOf, MapOf, SetOf, Text, field
from atoll.schema.placement import home_region
from atoll.schema.references import Ref
from atoll.simulation.journeys import Journey, Purse, Trail


def longest_title(versions: list[Any]) -> Any:
    """Neither commutative nor associative, and sometimes it fails: a team's function may be anything."""
    alive = [version for version in versions if version is not None]
    if not alive:
        return None
    shown = dict(alive[0])
    for version in alive[1:]:
        shown["title"] = (version["title"] + "|" + shown["title"][::-1])[:60]
    if len(shown["title"]) % 11 == 0:
        raise ValueError("this title has an unlucky length")
    return shown


class Profile(Collection, resolve="lww"):
    name: str
    age: int = 0


class Claim(Collection, resolve="fww"):
    owner: str


class Page(Collection, resolve="manual"):
    title: str


class Draft(Collection, resolve=longest_title):
    title: str = ""


class Cart(Collection, resolve="merge"):
    note: str = ""
    address: dict[str, Any] = {}  # noqa: RUF012 — pydantic copies it
    items: SetOf[str]
    labels: MapOf[int]


class Setting(Collection, resolve="lww"):
    theme: str = "plain"
    flags: MapOf[str]
    uses: Counter


class View(Collection):
    seen: Counter


class Stock(Collection, consistency="strong", fallback="escrow"):
    title: str = ""
    left: BoundedCounter = 0


class Basket(Collection):
    items: SetOf[str]


class Note(Collection, consistency="causal"):
    body: Text
    lines: ListOf[str]


class Member(Collection, consistency="session"):
    text: str


class Event(Collection, commit_wait=True):
    text: str


class Row(Collection):
    mark: str


class Post(Collection, consistency="causal"):
    body: str
    reply_to: str | None = None


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str
    quantity: int


class Account(Collection, consistency="strong", read_lease_s=1.0):
    balance: int = 0


class Badge(Collection, consistency="strong"):
    number: str | None = field(None, unique=True)
    mail: str | None = field(None, unique=True)
    note: str = ""


class Booking(Collection, consistency="strong", fallback="eventual"):
    guest: int = 0


class Seat(Collection):
    """Duplicates are cleared."""

    number: int | None = field(None, unique=True)
    guest: str = ""


class Desk(Collection, resolve="merge"):
    """Duplicates wait for a person."""

    number: int = field(unique=True)
    guest: str = ""


class Owner(Collection):
    """A deletion that met a reference is undone."""

    name: str = ""


class Pet(Collection):
    owner: Ref[Owner]
    note: str = ""


class Photo(Collection, resolve="merge"):
    """What it refers to may be gone."""

    pet: Ref[Pet] | None = field(None, on_delete="dangling")
    owner: Ref[Owner] | None = None


class Folder(Collection):
    """With it goes what is in it."""

    parent: Ref["Folder"] | None = field(None, on_delete="cascade")
    name: str = ""


class Customer(Collection, consistency="strong"):
    note: str = ""


class Invoice(Collection, consistency="strong"):
    """It keeps its customer."""

    customer: Ref[Customer]
    note: str = ""


class Line(Collection, consistency="strong"):
    """It goes with its invoice, and may outlive its seller."""

    invoice: Ref[Invoice] | None = field(None, on_delete="cascade")
    seller: Ref[Customer] | None = field(None, on_delete="dangling")
    note: str = ""


class Pass1(Collection, name="pass", consistency="strong"):
    number: str | None = None
    note: str = ""


class Tenant(Collection, consistency="strong"):
    note: str = ""


class Room1(Collection, name="room", consistency="strong"):
    tenant: str | None = None
    note: str = ""


class Room2(Collection, name="room", consistency="strong"):
    """What was the key of a document, and no reference."""

    tenant: Ref[Tenant] | None = None
    note: str = ""


class Pass2(Collection, name="pass", consistency="strong"):
    """What was no rule before."""

    number: str | None = field(None, unique=True)
    note: str = ""


class Person1(Collection, name="person"):
    name: str
    nick: str | None = None


class Person2(Collection, name="person"):
    """A field and a counter are new."""

    name: str
    nick: str | None = None
    tier: str = "plain"
    visits: Counter


class Person3(Collection, name="person"):
    """`nick` is gone, and a tier may be a number."""

    name: str
    tier: str | int = "plain"
    visits: Counter


class Board1(Collection, name="board", resolve="merge"):
    title: str = ""
    stars: Counter


class Board2(Collection, name="board", resolve="merge"):
    title: str = ""
    colour: str = "white"
    labels: MapOf[int]
    tags: SetOf[str]
    stars: Counter


class Memo(Collection):
    """Declared from the second version on."""

    body: Text


_UNCHANGED = (
    Profile, Claim, Page, Draft, Cart, Setting, View, Stock, Basket, Note, Member, Event, Row, Post, Order, Account,
    Badge, Booking, Seat, Desk,
)  # fmt: skip
_CHANGED: dict[int, tuple[type[Collection], ...]] = {
    1: (Person1, Board1),
    2: (Person2, Board2, Memo),
    3: (Person3, Board2, Memo),
}
NEWEST = 3
VERSIONED = ("person", "board", "memo")
"""Collections whose declarations differ between the versions."""


_OF_WORKLOADS: dict[str, tuple[type[Any], ...]] = {
    "sagas": (Trail, Purse, Journey),
    "references": (Owner, Pet, Photo, Folder),
    "strong_references": (Customer, Invoice, Line),
}
"""Declared where one of these workloads runs."""
DECLARED_LATER = "declared_later"
_DECLARED_LATER: dict[int, tuple[type[Any], ...]] = {
    1: (Pass1, Tenant, Room1),
    2: (Pass2, Tenant, Room2),
    3: (Pass2, Tenant, Room2),
}


@cache
def built_in(version: int = NEWEST, workloads: frozenset[str] = frozenset()) -> Application:
    """The application as of one version of its declarations, from 1 to `NEWEST`, with what some workloads need."""
    more = [each for name, needed in _OF_WORKLOADS.items() if name in workloads for each in needed]
    if DECLARED_LATER in workloads:
        more += _DECLARED_LATER[version]
    return application_of(*_UNCHANGED, *_CHANGED[version], *more, name="simulation")


def built_in_for(workloads: Iterable[str], version: int = NEWEST) -> Application:
    """The application that these workloads write."""
    return built_in(version, frozenset({*_OF_WORKLOADS, DECLARED_LATER} & {*workloads}))
