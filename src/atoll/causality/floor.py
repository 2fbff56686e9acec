"""Floors: one component of a vector in place of those of incarnations that are over.

    tokyo~ → n    everything of tokyo's incarnations below number n

Its key is no origin. Only the region itself raises its floor: once nothing of its former incarnations is still to come
(`StartupState.floor`). The raise travels in the context of the region's next entry, beside the components that the
floor stands for. So whoever applies that entry has all of them already, and whoever applies a later one has applied
that entry. From then on contexts, tokens and cursors leave these components out: they are *folded*.

The position that a region stores is never folded. It says where each incarnation ended, and so what of a token is lost.
So what is folded is compared with a position by `vector.descends`, like everything else. Where a folded vector is to
cover something, `vector.covers` and `lacking` go by its floors.
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality.origin import SEPARATOR, is_floor, of_region
from atoll.causality.vector import VersionVector, folds, missing


def floor_of(region: str) -> str:
    """The key of the region's floor."""
    return region + SEPARATOR


def floors_of(vector: Mapping[str, int]) -> VersionVector:
    """Its floors alone."""
    return {key: seq for key, seq in vector.items() if is_floor(key)}


def origins_in(vector: Mapping[str, int]) -> VersionVector:
    """Without its floors: what is left names entries."""
    return {origin: seq for origin, seq in vector.items() if not is_floor(origin)}


def fold(vector: Mapping[str, int], here: Mapping[str, int] | None = None) -> Mapping[str, int]:
    """Without the components that its floors stand for.

    `here` is given for a vector that clients had a hand in. Components that claim more than this position stay. What
    they claim may be lost.
    """
    if not any(map(is_floor, vector)):
        return vector
    return {
        origin: seq
        for origin, seq in vector.items()
        if not folds(vector, origin) or (here is not None and seq > here.get(origin, 0))
    }


def unfold(vector: Mapping[str, int], position: Mapping[str, int]) -> VersionVector:
    """With what its floors stand for, as a position has it."""
    return {**vector, **{origin: seq for origin, seq in position.items() if folds(vector, origin)}}


def lacking(seen: Mapping[str, int], wanted: Mapping[str, int]) -> VersionVector:
    """The entries up to which `wanted` goes, and which `seen` does not cover; either may be folded.

    Floors of `wanted` do not count: whoever has seen the rest has seen what they stand for.
    """
    found = missing(seen, wanted)
    return {origin: seq for origin, seq in found.items() if not is_floor(origin) and not folds(seen, origin)}


def raised_by(position: Mapping[str, int], context: Mapping[str, int]) -> VersionVector | None:
    """The floors that the writer of an entry adds to a position; None where this lacks what the writer had seen."""
    found = missing(position, context)
    return found if all(map(is_floor, found)) else None


def begins_floor(vector: Mapping[str, int], region: str, number: int) -> bool:
    """Whether raising the region's floor to this incarnation would fold anything."""
    key = floor_of(region)
    if number <= vector.get(key, 0):
        return False
    raised = {key: number}
    return any(seq and folds(raised, origin) for origin, seq in of_region(vector, region).items())
