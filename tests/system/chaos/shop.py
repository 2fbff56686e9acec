"""What the regions serve: a collection for every promise that chaos puts to the test."""

from typing import Any

from atoll import BoundedCounter, Collection, Counter, ListOf, MapOf, SetOf, Text, home_region


def in_order_seen(versions: list[Any]) -> Any:
    """Sensitive to order: regions agree only if all see the versions in the same one."""
    texts = [version["text"] for version in versions if version is not None]
    return {"text": "+".join(texts)} if texts else None


class Inventory(Collection, consistency="strong", fallback="escrow"):
    stock: BoundedCounter = 0


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str
    sku: str
    quantity: int = 1


class Account(Collection, consistency="strong"):
    balance: int = 0


class Roll(Collection, consistency="strong"):
    items: ListOf[int]


class Views(Collection):
    seen: Counter


class Cart(Collection, resolve="merge"):
    note: str = ""
    items: SetOf[str]
    labels: MapOf[int]


class Note(Collection, consistency="causal"):
    body: Text
    lines: ListOf[str]


class Profile(Collection, resolve="lww"):
    name: str


class Claim(Collection, resolve="fww"):
    owner: str


class Page(Collection, resolve="manual"):
    title: str


class Chain(Collection, resolve=in_order_seen):
    text: str = ""


class Register(Collection, consistency="session"):
    """Each is written by one session, wherever it is: never a conflict."""

    number: int


class Purse(Collection):
    """Batches move amounts between purses: they always add up to nothing."""

    amount: Counter


class Leg(Collection):
    """Two with one batch's number are written together."""

    number: int


class Post(Collection, consistency="causal"):
    text: str


class Reply(Collection, consistency="causal"):
    post: str


class Mark(Collection):
    """Written by the probes."""

    number: int
