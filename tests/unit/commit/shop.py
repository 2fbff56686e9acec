"""Collections of every kind, for the tests."""

from typing import Any

from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import BoundedCounter, Counter, ListOf, MapOf, SetOf, Text
from atoll.schema.saga import Saga, step


def keep_longest_then_concatenate(versions: list[Any]) -> Any:
    """Neither commutative nor associative: it depends on the order in which it sees the versions."""
    alive = [version for version in versions if version is not None]
    if not alive:
        return None
    shown = dict(alive[0])
    for version in alive[1:]:
        shown["text"] = (version["text"] + "|" + shown["text"][::-1])[:40]
    return shown


class Profile(Collection, resolve="lww"):
    name: str
    age: int = 0


class Claim(Collection, resolve="fww"):
    owner: str


class Page(Collection, resolve="manual"):
    title: str


class Draft(Collection, resolve=keep_longest_then_concatenate):
    text: str = ""


class Cart(Collection, resolve="merge"):
    note: str = ""
    address: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    items: SetOf[str]
    labels: MapOf[int]


class Stock(Collection, consistency="strong", fallback="escrow"):
    title: str = ""
    left: BoundedCounter = 0


class Views(Collection):
    seen: Counter


class Note(Collection, consistency="causal"):
    body: Text
    lines: ListOf[str]


class Payment(Saga):
    amount: int = 0

    @step(signal="paid")
    def pay(self, tx: Any, signal: Any) -> None:
        tx.put(Profile(key=self.key, name=str(signal)))


SHOP = application_of(Profile, Claim, Page, Draft, Cart, Stock, Views, Note, Payment, name="shop")
