"""The multi-value register: it keeps every concurrent version, and a strategy picks what is shown.

A version carries its dot and the causal context of its writer. So a later write is distinguished from a concurrent
one without clocks (Preguiça et al., "Dotted version vectors", 2010). A register is a tuple
of versions in canonical order: by stamp, then origin, then seq.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Dot, Order, Seq, Stamp
from atoll.causality.vector import covers, folds


class Operation(IntEnum):
    """What the writer did, as far as it could see."""

    INSERT = 0
    UPDATE = 1
    DELETE = 2


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One write to one register."""

    origin: Origin
    seq: Seq
    stamp: Stamp
    uncertainty_ms: int
    """Half-width of the writer's clock error; it says whether an order by stamps can be trusted."""
    operation: int
    context: dict[str, int]
    """The version vector that the writer had seen."""
    value: bytes | None
    """JSON text; None is a deletion."""

    @property
    def dot(self) -> Dot:
        return Dot(self.origin, self.seq)


Register = tuple[Version, ...]


def canonical_order(version: Version) -> Order:
    return (version.stamp, version.origin, version.seq)


def _seen(version: Version, by: Iterable[Version]) -> bool:
    """Whether any of `by` is this version or was written by someone who had seen it."""
    origin, seq = version.origin, version.seq
    return any(
        (other.origin == origin and other.seq >= seq) or covers(other.context, origin, seq) for other in by
    )


def merge(ours: Register, theirs: Register) -> Register:
    """Keep what neither side has overwritten: commutative, associative, idempotent."""
    if len(ours) == 1 and len(theirs) == 1:
        # Nearly every write: one version that succeeds the one that is here.
        if theirs[0].context.get(ours[0].origin, 0) >= ours[0].seq or folds(
            theirs[0].context, ours[0].origin
        ):
            return theirs
        if ours[0].origin == theirs[0].origin and ours[0].seq == theirs[0].seq:
            return ours
    elif not ours:
        return theirs
    elif not theirs:
        return ours
    mine, others = {version.dot for version in ours}, {version.dot for version in theirs}
    kept = [v for v in ours if v.dot in others or not _seen(v, theirs)]
    kept += [v for v in theirs if v.dot not in mine and not _seen(v, ours)]
    kept.sort(key=canonical_order)
    return tuple(kept)
