"""The place of an append-only document in the order of all of them.

The order is (stamp, origin, seq, number). It extends causality: an entry's stamp is higher than those of all
entries that its writer has seen (`causality.clock`). Concurrent entries have an order too, and
all regions agree on it. The place is the document's key. Keys sort as places do: numbers have a fixed width, and a
space sorts before all characters of a region's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from atoll.causality.clock import pack, stamp_ms
from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp

_KEY = re.compile(r"([0-9a-f]{16}) ([^ ]+) ([0-9a-f]{14}) ([0-9a-f]{4})")


class Place(NamedTuple):
    """Of one document of an entry."""

    stamp: Stamp
    origin: Origin
    seq: Seq
    number: int
    """Of the document within its entry, from 0."""

    @property
    def key(self) -> str:
        return f"{self.stamp:016x} {self.origin} {self.seq:014x} {self.number:04x}"


def place_of(key: str) -> Place | None:
    """None for a key that is no place."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    stamp, origin, seq, number = found.groups()
    return Place(Stamp(int(stamp, 16)), Origin(origin), Seq(int(seq, 16)), int(number, 16))


def horizon(keys: Sequence[str], age_ms: int, most: int) -> str:
    """What retention keeps of a collection with these sorted keys: the ones from here on.

    It keeps the `most` newest, and of these what is at most `age_ms` older than the newest one. The rule depends on the
    keys alone, and it does not matter when it is applied: keep(A ∪ B) = keep(keep(A) ∪ B). So each region removes by
    itself what the rule does not keep, without a tombstone, and all regions come to the same.
    """
    newest = next((place for key in reversed(keys) if (place := place_of(key)) is not None), None)
    if newest is None:
        return ""
    oldest = since(stamp_ms(newest.stamp) - age_ms)
    return max(oldest, keys[-most]) if len(keys) > most else oldest


def since(ms: int) -> str:
    """Sorts after every place before unix time `ms`, and before all others."""
    return f"{pack(max(0, ms)):016x}"
