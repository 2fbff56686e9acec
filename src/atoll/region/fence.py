"""What a region wrote after it had left is taken from nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.causality.origin import region_of
from atoll.documents.entry import EncodedEntry
from atoll.errors import HostileEntry
from atoll.membership.heirs import Heirs, Seal
from atoll.membership.members import Members


class Fence:
    """Of one node."""

    def __init__(self, own: str, members: Members) -> None:
        self.closing: dict[str, int] = {}
        """Regions that are about to be sealed, and up to which incarnation."""
        self._own = own
        self._members = members

    def check_link(self, peer: str, vector: Mapping[str, int], here: Mapping[str, int]) -> None:
        """Raises HostileEntry for a peer that claims what a region wrote after it had left."""
        origin = self._heirs().beyond(vector, self._own, peer, here)
        if origin is not None:
            raise HostileEntry(
                f"{peer} has entry {vector[origin]} of {origin}, which was written after {region_of(origin)} had left;"
                f" start {peer} with an empty store"
            )

    def check_entries(self, peer: str, encoded: Sequence[EncodedEntry], here: Mapping[str, int]) -> None:
        """The same for entries."""
        if self._members.heirs.spans:
            self.check_link(peer, {each.entry.origin: each.entry.seq for each in encoded}, here)

    def _heirs(self) -> Heirs:
        """With the seals that are about to be written."""
        heirs, own = self._members.heirs, self._own
        if not self.closing:
            return heirs
        seals = dict(heirs.seals)
        for region, upto in self.closing.items():
            known = seals.get(region, {})
            seals[region] = {**known, own: Seal(upto, known[own].ends if own in known else {})}
        return Heirs(heirs.spans, seals, heirs.cleared)
