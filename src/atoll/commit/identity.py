"""Who commits, and what a document is addressed by."""

from __future__ import annotations

from typing import NamedTuple

from atoll.causality.origin import Origin
from atoll.causality.types import RegionName
from atoll.lattices.base import Actor
from atoll.membership.heirs import NOBODY, Heirs
from atoll.schema.bounds import ENTRY_BYTES

Address = tuple[str, str]
"""(collection, key)"""

REMAINS = "remains"
"""The space of states that says where something is to be purged."""


class Identity(NamedTuple):
    """Who commits."""

    origin: Origin
    regions: tuple[RegionName, ...]
    uncertainty_ms: int
    """Half-width of the clock's error, stamped on every entry."""
    document_bytes: int
    """A write may not make a document larger than this; merging may have."""
    entry_bytes: int = ENTRY_BYTES
    """A larger entry is refused: nobody could be sure to receive it."""
    former: tuple[Origin, ...] = ()
    """Origins of the region of which nothing is still to come: their rights may be spent."""
    heirs: Heirs = NOBODY
    """Who has the rights of regions that have left."""
    inherits: bool = False
    """Whether the region may spend what it has inherited."""
    purges: bool = True
    """Whether the region notes what may be purged later."""
    floor: int = 0
    """Below this incarnation nothing of the region is still to come: see `causality.floor`. 0 where that is open."""

    @property
    def actor(self) -> Actor:
        """Who performs operations on mergeable fields."""
        return Actor(self.origin, self.regions, self.former, self.heirs, self.inherits)


def address_of(name: str) -> Address:
    """Of a state, or of a register, that belongs to a document: its key or name is `collection/key`."""
    collection, _, key = name.partition("/")
    return collection, key


def remains_of(address: Address) -> tuple[str, str]:
    """(space, key) of the state that says which entry of this region left something in the document to be purged."""
    return REMAINS, "/".join(address)
