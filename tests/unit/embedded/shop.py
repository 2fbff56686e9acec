"""Collections of every kind that an application keeps in its own process."""

from __future__ import annotations

from atoll import BoundedCounter, Collection, Counter, MapOf, SetOf
from atoll.schema.application import application_of


class Profile(Collection):
    name: str
    age: int = 0


class Page(Collection, resolve="manual"):
    title: str


class Item(Collection, consistency="strong", fallback="escrow"):
    title: str = ""
    stock: BoundedCounter
    seen: Counter
    tags: SetOf[str]
    labels: MapOf[str]


SHOP = application_of(Profile, Page, Item, name="shop")
