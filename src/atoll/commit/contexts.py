"""What the entries of one group commit say that their writers had seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from atoll.causality.floor import begins_floor, floor_of, origins_in, raised_by
from atoll.causality.origin import Origin, is_floor, region_of
from atoll.causality.vector import VersionVector, folds, missing
from atoll.commit.identity import Identity
from atoll.documents.entry import Entry
from atoll.errors import CorruptEntry, Unavailable

_NOTHING: Final = frozenset[str]()


class Contexts:
    """Of one batch."""

    __slots__ = ("_folded", "raises")

    def __init__(self, identity: Identity, vector: Mapping[str, int]) -> None:
        self._folded: frozenset[str] | None = None
        """Origins that contexts leave out."""
        self.raises: VersionVector = {}
        """The region's own floor, if the next entry of the region is to raise it."""
        if identity.floor and begins_floor(vector, region := region_of(identity.origin), identity.floor):
            self.raises = {floor_of(region): identity.floor}

    def next(self, vector: Mapping[str, int], origin: Origin) -> VersionVector:
        """Of the next local entry, under this origin.

        The entry that raises a floor names all that the floor stands for. So it waits everywhere until that is there.
        """
        folded, before = self._folded, vector.get(origin, 0)
        if folded is None:
            folded = self._folded = _folded_in(vector)
        if not folded:
            return {**vector, **self.raises, origin: before}
        context = {each: seq for each, seq in vector.items() if each not in folded}
        return {**context, **self.raises, origin: before}

    def raised(self, entry: Entry) -> VersionVector:
        """The floor that an entry raises whose context is of `next`."""
        if not self.raises.items() <= entry.context.items():
            return {}  # an entry of a peer, or one that was under way before
        raises, self.raises = self.raises, {}
        return raises

    def refold(self) -> None:
        """The floors of the position may have been raised."""
        self._folded = None

    def adopted(self, vector: Mapping[str, int], entry: Entry) -> VersionVector:
        """The floors that a peer's entry raises, whose context is not covered. Raises CorruptEntry for any other."""
        raised = raised_by(vector, entry.context)
        if raised is None:
            lacking = origins_in(missing(vector, entry.context))
            unseen = ", ".join(f"{o} up to {s}" for o, s in lacking.items())
            raise CorruptEntry(
                f"entry {entry.seq} of {entry.origin} has seen {unseen}, and this region has not"
            )
        return raised


def _folded_in(vector: Mapping[str, int]) -> frozenset[str]:
    for key in vector:
        if is_floor(key):
            return frozenset(each for each in vector if folds(vector, each))
    return _NOTHING  # nearly always


def outdated(position: Mapping[str, int], origin: Origin) -> Unavailable | None:
    """Why nothing may be numbered under an origin any more: another node may have begun the next incarnation."""
    if not folds(position, origin):
        return None
    return Unavailable(f"{region_of(origin)} has begun to number its entries anew: try again")
