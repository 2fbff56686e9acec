"""Version vectors as plain dictionaries: region → highest seq seen, absent meaning 0.

A vector names a causally closed prefix of every region's journal, so one number for each region is enough. The source
is Parker et al., "Detection of mutual inconsistency in distributed systems", 1983. These are functions over
`Mapping[str, int]` and not a class, because they run for every applied entry and every waiting read.
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality.origin import SEPARATOR, is_floor

VersionVector = dict[str, int]


def folds(vector: Mapping[str, int], origin: str) -> bool:
    """Whether the vector has a floor that stands for everything of this origin."""
    region, _, number = origin.partition(SEPARATOR)
    floor = vector.get(region + SEPARATOR)
    return floor is not None and not is_floor(origin) and int(number or "0", 16) < floor


def covers(vector: Mapping[str, int], origin: str, seq: int) -> bool:
    """Whether `vector`, which may be folded, has seen the entry `seq` of `origin`."""
    return vector.get(origin, 0) >= seq or folds(vector, origin)


def descends(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
    """Whether `a` has seen everything that `b` has (a ≥ b; equal vectors descend from each other).

    `a` is not folded: a position, or what was made of positions. `b` may be.
    """
    if a is b:
        return True
    get = a.get
    for region, seq in b.items():  # noqa: SIM110 — `all` over a generator takes twice as long here
        if get(region, 0) < seq:
            return False
    return True


def concurrent_with(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
    """Whether each of the two has seen something that the other has not."""
    return not descends(a, b) and not descends(b, a)


def merge(a: Mapping[str, int], b: Mapping[str, int]) -> VersionVector:
    """The least vector that descends from both, as a new dictionary."""
    merged = dict(a)
    get = merged.get
    for region, seq in b.items():
        if seq > get(region, 0):
            merged[region] = seq
    return merged


def missing(have: Mapping[str, int], wanted: Mapping[str, int]) -> VersionVector:
    """The components of `wanted` that `have` does not cover; empty when `have` descends from `wanted`."""
    get = have.get
    return {region: seq for region, seq in wanted.items() if get(region, 0) < seq}
