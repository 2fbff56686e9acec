"""The shop's data: a class for each collection, with its consistency and its conflict strategy."""

from atoll import BoundedCounter, Collection, Counter, SetOf, Text, home_region


class Account(Collection, consistency="strong"):
    """Money: one region orders the writes of each account."""

    owner: str
    balance: int = 0


class Inventory(Collection, consistency="strong", fallback="escrow"):
    """Never oversold. A region that is cut off sells the stock that it holds rights for."""

    title: str
    stock: BoundedCounter = 0  # never below zero, in any region


class Order(Collection, placement=home_region("region"), consistency="session"):
    """Sharded: only the region that the order names writes it."""

    region: str
    sku: str
    quantity: int


class Profile(Collection, resolve="lww"):
    """Replicated: every region writes. Of two concurrent versions the later one is shown."""

    name: str
    email: str | None = None


class Cart(Collection, resolve="merge"):
    """Merged field by field. Concurrent additions of two regions are all kept."""

    items: SetOf[str]


class Post(Collection, consistency="causal"):
    """A reply never shows before what it replies to."""

    author: str
    body: str
    reply_to: str | None = None


class PageView(Collection):
    """Concurrent increments add up."""

    views: Counter


class Note(Collection, consistency="causal"):
    """Edited together, in any region."""

    body: Text
