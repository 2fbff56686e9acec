"""Origins: who numbers journal entries.

A region numbers its entries under one origin until its memory of them may be gone. That is so after a lost disk, a
restored backup, or a database that went back. Then it begins a new *incarnation*, which is another origin, with numbers
of its own. So no number is ever given out twice, and no peer must be heard first. Riak calls these actor epochs
(Gonçalves et al., "Dotted version vectors: efficient causality tracking for distributed storage systems", 2014).

    frankfurt          the first incarnation
    frankfurt~5d8a3f   a later one, in hexadecimal

Vectors, contexts, dots and the cells of lattices are keyed by origin. A later incarnation has the higher number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NewType

Origin = NewType("Origin", str)
SEPARATOR: Final = "~"
PATTERN: Final = r"^[a-z][a-z0-9_-]{0,31}(~[0-9a-f]{1,13})?\Z"
"""Of an origin, as text."""
MAX_INCARNATION: Final = 1 << 52
_EPOCH_MS: Final = 1_704_067_200_000
"""1 January 2024: incarnations count from here, so that they take four bytes."""
_TICK_BITS: Final = 8


def origin_of(region: str, incarnation: int) -> Origin:
    """The origin of an incarnation; 0 is the first one."""
    return Origin(f"{region}{SEPARATOR}{incarnation:x}" if incarnation else region)


def region_of(origin: str) -> str:
    """Whose incarnation it is."""
    return origin.partition(SEPARATOR)[0]


def incarnation_of(origin: str) -> int:
    """0 for the first one."""
    return int(origin.partition(SEPARATOR)[2] or "0", 16)


def next_incarnation(now_ms: int, known: Iterable[str]) -> int:
    """One that was never begun before: by the clock, and above those of the `known` origins of the region.

    The clock keeps apart what nobody here remembers; ticks are of 256 ms.
    """
    by_clock = max(1, (now_ms - _EPOCH_MS) >> _TICK_BITS)
    return max(by_clock, 1 + max(map(incarnation_of, known), default=0))


def is_floor(key: str) -> bool:
    """Whether it is the key of a floor in a vector, and names no origin: see `causality.floor`."""
    return key.endswith(SEPARATOR)


def of_region(vector: Mapping[str, int], region: str) -> dict[str, int]:
    """The components of all incarnations of a region, without its floor (`causality.floor`)."""
    prefix = region + SEPARATOR
    return {
        origin: seq
        for origin, seq in vector.items()
        if origin == region or (origin.startswith(prefix) and not is_floor(origin))
    }


def latest_of(vector: Mapping[str, int], region: str) -> Origin:
    """The origin of the region's latest incarnation in the vector; of its first one where there is none."""
    return Origin(max(of_region(vector, region), key=incarnation_of, default=region))


def by_region(vector: Mapping[str, int]) -> dict[str, int]:
    """Region → how many of its entries a vector covers, of all incarnations: for people."""
    counts: dict[str, int] = {}
    for origin, seq in sorted(vector.items()):
        if is_floor(origin):
            continue
        counts[region_of(origin)] = counts.get(region_of(origin), 0) + seq
    return counts
