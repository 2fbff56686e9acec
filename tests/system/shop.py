"""What the regions under test serve: a collection of every kind."""

import time
from pathlib import Path
from typing import Any

from atoll import (
    BoundedCounter,
    Collection,
    Counter,
    ListOf,
    MapOf,
    SetOf,
    Text,
    field,
    home_region,
    key_ranges,
)


def in_order_seen(versions: list[Any]) -> Any:
    """Sensitive to order: regions agree only if all see the versions in the same one."""
    return {"text": "+".join(version["text"] for version in versions if version is not None)}


def always_raises(versions: list[Any]) -> Any:
    raise RuntimeError("no idea")


def never_returns(versions: list[Any]) -> Any:
    while True:
        pass


def sleeps(versions: list[Any]) -> Any:
    time.sleep(60)


def returns_rubbish(versions: list[Any]) -> Any:
    return {"text": 7, "unheard_of": True}


class Profile(Collection, resolve="lww"):
    name: str
    age: int = 0
    score: float = 0.0
    extra: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)


class Claim(Collection, resolve="fww"):
    owner: str


class Page(Collection, resolve="manual"):
    title: str


class Login(Collection, consistency="strong"):
    """The whole document is one person's: no two have one address."""

    email: str = field(unique=True)
    phone: str | None = field(None, unique=True)


class Seat(Collection):
    number: int | None = field(None, unique=True)
    guest: str = ""


class Desk(Collection, resolve="merge"):
    name: str = field(unique=True)


class Chain(Collection, resolve=in_order_seen):
    text: str = ""


class Raising(Collection, resolve=always_raises):
    text: str = ""


class Endless(Collection, resolve=never_returns):
    text: str = ""


class Sleepy(Collection, resolve=sleeps):
    text: str = ""


class Rubbish(Collection, resolve=returns_rubbish):
    text: str = ""


class Cart(Collection, resolve="merge"):
    note: str = ""
    items: SetOf[str]
    labels: MapOf[int]


class Views(Collection):
    seen: Counter


class Note(Collection, consistency="causal"):
    body: Text
    lines: ListOf[str]


class Inventory(Collection, consistency="strong", fallback="escrow"):
    title: str = ""
    stock: BoundedCounter = 0


class Account(Collection, consistency="strong"):
    balance: int = 0


class Booking(Collection, consistency="strong", fallback="eventual"):
    guest: str = ""


class Purse(Collection, consistency="strong"):
    amount: Counter


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str
    quantity: int = 1


if "virginia" in Path(__file__).with_name("regions").read_text():

    class Shelf(Collection, placement=key_ranges({"": "frankfurt", "m": "tokyo", "t": "virginia"})):
        label: str = ""
