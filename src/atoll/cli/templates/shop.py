"""What the shop's data is: a class per collection, and for each how it is kept in step across regions."""

from atoll import BoundedCounter, Collection, Counter, SetOf, Text, home_region


class Account(Collection, consistency="strong"):
    """Money: one global order, agreed by a majority of regions."""

    owner: str
    balance: int = 0


class Inventory(Collection, consistency="strong", fallback="escrow"):
    """Never oversold; a region that is cut off sells on from what it holds."""

    title: str
    stock: BoundedCounter = 0  # never below zero, in any region


class Order(Collection, placement=home_region("region"), consistency="session"):
    """Sharded: the region that the order names is the one that writes it."""

    region: str
    sku: str
    quantity: int


class Profile(Collection, resolve="lww"):
    """Replicated: every region writes; of two concurrent versions the later one stays."""

    name: str
    email: str | None = None


class Cart(Collection, resolve="merge"):
    """Merged field by field; what two regions add at once is all there."""

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
