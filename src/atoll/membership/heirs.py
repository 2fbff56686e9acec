"""Who has the rights in bounded counters of regions that have left.

When a region leaves, a majority decides which member becomes its heir. Each member then takes no more of what the
region wrote, and says in its journal how far it has come: it *seals* the region. The heir holds all that any member
holds once it has every member's seal, for the journal of each is causal. From then on it spends the region's rights.

All of it is by incarnation. A region that comes back under the same name begins a new one, which has none of those
rights. As a member it seals its own former incarnations. So the heir knows what it did with their rights before it knew
that they have an heir.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from atoll.causality.origin import Origin, incarnation_of, is_floor, origin_of, region_of
from atoll.causality.types import RegionName
from atoll.causality.vector import VersionVector, merge


class Span(NamedTuple):
    """Incarnations of a region that have left together."""

    upto: int
    """The last one; the first one follows the span before."""
    heir: Origin
    """Under which the heir numbered then. If the heir leaves in turn, that is part of a span of its own."""


class Seal(NamedTuple):
    """What a member says of a region that has left."""

    upto: int
    """The last incarnation of which it takes nothing more."""
    ends: Mapping[str, int]
    """Origin of the region → the last entry that the member held."""


@dataclass(frozen=True)
class Heirs:
    """What is decided and said so far, as one region knows it."""

    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    """Region → spans, the earliest first."""
    seals: Mapping[str, Mapping[str, Seal]] = field(default_factory=dict)
    """Region → member → seal."""
    cleared: Mapping[str, int] = field(default_factory=dict)
    """Region → the last incarnation of which nothing is still to come to this region."""

    def heir_of(self, origin: str) -> Origin | None:
        """The heir of the span that an origin is in; None for one that has not left."""
        if not self.spans:
            return None
        incarnation = incarnation_of(origin)
        spans = self.spans.get(region_of(origin), ())
        return next((span.heir for span in spans if incarnation <= span.upto), None)

    def holder_of(self, origin: str) -> tuple[str, bool]:
        """The region that has an origin's rights, and whether nothing is still to come of whoever had them before."""
        clear, seen = True, set[str]()
        while (heir := self.heir_of(origin)) is not None and origin not in seen:
            seen.add(origin)
            clear = clear and incarnation_of(origin) <= self.cleared.get(region_of(origin), -1)
            origin = heir
        return region_of(origin), clear

    def upto(self, region: str) -> int:
        """The region's last incarnation that has left; -1 for none."""
        spans = self.spans.get(region, ())
        return spans[-1].upto if spans else -1

    def address(self, region: str) -> Origin:
        """The origin under which rights are granted to a region, whatever incarnation it has at present."""
        return origin_of(region, self.upto(region) + 1)

    def unsealed(self, region: str, members: Iterable[str], upto: int | None = None) -> list[str]:
        """The members that have yet to seal the region, up to an incarnation or all that have left."""
        seals, wanted = self.seals.get(region, {}), self.upto(region) if upto is None else upto
        return sorted(member for member in members if member not in seals or seals[member].upto < wanted)

    def clear(self, members: Iterable[str]) -> Heirs:
        """With what is cleared, going by the seals that are here; what was cleared before stays so.

        A region that joins later gets what there is of the region from those that have sealed it.
        """
        members, cleared = tuple(members), dict(self.cleared)
        for region, spans in self.spans.items():
            for span in spans:
                if not self.unsealed(region, members, span.upto):
                    cleared[region] = max(span.upto, cleared.get(region, -1))
        return Heirs(self.spans, self.seals, cleared)

    def held(self, region: str) -> VersionVector:
        """Origin of the region → the last entry that any member held when it sealed the region, as far as is known."""
        found: VersionVector = {}
        for seal in self.seals.get(region, {}).values():
            found = merge(found, seal.ends)
        return found

    def ends(self) -> dict[str, int]:
        """Where the origins ended of which nothing is still to come; the last incarnation is named in any case."""
        found: dict[str, int] = {}
        for region, upto in self.cleared.items():
            held = self.held(region)
            found[origin_of(region, upto)] = 0
            found |= {origin: seq for origin, seq in held.items() if incarnation_of(origin) <= upto}
        return found

    def beyond(self, vector: Mapping[str, int], own: str, link: str, here: Mapping[str, int]) -> str | None:
        """An origin of which a vector claims more than there can be; None for none.

        `own` is the region that asks, `here` its vector. It takes nothing from a region's own link that no member
        held when it sealed the region. Once nothing is to come, it takes such from nobody.
        """
        for region in self.spans:
            sealed = self.seals.get(region, {}).get(own)
            direct = sealed.upto if sealed is not None and region == link else -1
            upto = max(direct, self.cleared.get(region, -1))
            if upto < 0:
                continue
            held = self.held(region)
            for origin, seq in vector.items():
                if region_of(origin) != region or is_floor(origin) or incarnation_of(origin) > upto:
                    continue
                if seq > max(held.get(origin, 0), here.get(origin, 0)):
                    return origin
        return None


NOBODY = Heirs()


def next_spans(heirs: Heirs, region: str, upto: int, heir: Origin) -> tuple[Span, ...]:
    """What is to be decided once a region has left, again or for the first time."""
    return (*heirs.spans.get(region, ()), Span(upto, heir))


def due(
    heirs: Heirs, own: str, left: Iterable[str], vector: Mapping[str, int]
) -> tuple[list[RegionName], list[RegionName]]:
    """The regions that need an heir, and those that this region has to seal."""
    latest: dict[str, int] = {}
    for origin in vector:
        region = region_of(origin)
        latest[region] = max(incarnation_of(origin), latest.get(region, -1))
    orphans = [
        region
        for region in sorted(left)
        if region not in heirs.spans or latest.get(region, -1) > heirs.upto(region)
    ]
    unsealed = [region for region in sorted(heirs.spans) if own in heirs.unsealed(region, [own])]
    return list(map(RegionName, orphans)), list(map(RegionName, unsealed))
