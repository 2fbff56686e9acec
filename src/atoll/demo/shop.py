"""The shop that the demo runs: what its data is, and what happens when regions disagree."""

import asyncio
from typing import Any

from atoll import (
    Abort,
    BoundedCounter,
    Collection,
    Counter,
    Decrement,
    Increment,
    Retry,
    Saga,
    SetOf,
    Text,
    home_region,
    step,
)
from atoll.errors import BoundExceeded


def cheapest(versions: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Two regions priced something at the same time: the customer pays the lower price."""
    offers = [version for version in versions if version is not None]
    return min(offers, key=lambda offer: (offer["price_cents"], offer["region"])) if offers else None


class Inventory(Collection, consistency="strong", fallback="escrow"):
    """One worldwide stock of each product: never oversold, and a region that is cut off sells on."""

    title: str
    price_cents: int = 0
    stock: BoundedCounter = 0


class Order(Collection, placement=home_region("region"), consistency="session"):
    """Belongs to the household's region. Its author sees it in every region."""

    region: str
    household: int
    basket: int
    sku: str
    quantity: int
    price_cents: int
    at: int


class PageView(Collection):
    """Counts add up."""

    views: Counter


class Profile(Collection, resolve="lww"):
    """Of two concurrent versions the later one stays; the other is in the audit."""

    name: str
    street: str = ""


class Cart(Collection, resolve="merge"):
    """Merged field by field; a checkout does not take along what someone else puts in meanwhile."""

    delivery: str = "doorstep"
    items: SetOf[str]


class Coupon(Collection, resolve="fww"):
    """The first claim wins."""

    household: int
    region: str


class PriceTag(Collection, resolve=cheapest):
    """The team's own function decides."""

    price_cents: int
    region: str


class Review(Collection, resolve="manual"):
    """A person decides."""

    stars: int
    text: str


class Note(Collection, consistency="causal"):
    """Edited by several people at once; every word stays."""

    body: Text


class Marker(Collection):
    """Written once a second by each region, to see when the others have it."""

    number: int


class Wallet(Collection, consistency="strong"):
    """Money has one order worldwide."""

    cents: BoundedCounter = 0


class Parcel(Collection):
    """What was handed to the carrier."""

    sku: str


class Delivery(Saga):
    """Stock from here, money from a wallet elsewhere, and a parcel: all of it, or nothing."""

    sku: str
    wallet: str
    cents: int

    @step(compensate="put_back")
    async def reserve(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Decrement(1))

    async def put_back(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Increment(1))

    @step(effect=True, retry=Retry(None, most_s=1.0))
    async def pay(self, db: Any) -> None:
        await asyncio.sleep(0.4)  # a bank takes its time
        try:
            await db.update(Wallet, self.wallet, cents=Decrement(self.cents))
        except BoundExceeded:
            raise Abort("not enough money") from None

    @step
    async def ship(self, tx: Any) -> None:
        tx.put(Parcel(key=self.key, sku=self.sku))

    pivot = "pay"
