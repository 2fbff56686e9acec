"""The place of an append-only document in the order of all of them.

The order is (stamp, region, seq, number). It extends causality: the writer of an entry has taken note of the stamps of
all entries that it has seen, so its own stamp is higher (`causality.clock`). Concurrent entries have an order too, and
all regions agree on it. The place is the document's key. Keys sort as places do: numbers have a fixed width, and a
space sorts before all characters of a region's name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from atoll.causality.clock import Stamp, pack

_KEY = re.compile(r"([0-9a-f]{16}) ([^ ]+) ([0-9a-f]{14}) ([0-9a-f]{4})")


class Place(NamedTuple):
    """Of one document of an entry."""

    stamp: Stamp
    region: str
    seq: int
    number: int
    """Of the document within its entry, from 0."""

    @property
    def key(self) -> str:
        return f"{self.stamp:016x} {self.region} {self.seq:014x} {self.number:04x}"


def place_of(key: str) -> Place | None:
    """None for a key that is no place."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    stamp, region, seq, number = found.groups()
    return Place(int(stamp, 16), region, int(seq, 16), int(number, 16))


def since(ms: int) -> str:
    """Sorts after every place before unix time `ms`, and before all others."""
    return f"{pack(max(0, ms)):016x}"
