"""Which regions there are: a value with an epoch, and the holder that every part of a region asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from atoll.causality.origin import Origin, origin_of, region_of
from atoll.causality.types import Epoch, RegionName
from atoll.errors import ConfigError
from atoll.membership.heirs import NOBODY, Heirs


@dataclass(frozen=True)
class Membership:
    """The regions of a deployment at one epoch. A change makes the value of the next epoch."""

    epoch: Epoch
    regions: tuple[RegionName, ...]
    """Those that hold documents, sorted."""
    left: tuple[RegionName, ...] = ()
    """Origins of entries that are no members. Their entries are still held, relayed and accepted.

    They were members before, or a peer knows them as members and this node does not yet.
    """
    witnesses: tuple[RegionName, ...] = ()
    """Regions that vote, and hold no documents. Sorted."""

    @classmethod
    def of(
        cls,
        regions: Iterable[str],
        *,
        epoch: int = 1,
        left: Iterable[str] = (),
        witnesses: Iterable[str] = (),
    ) -> Membership:
        return cls(Epoch(epoch), _sorted(regions), _sorted(left), _sorted(witnesses))

    def of_regions(self, regions: Iterable[str], witnesses: Iterable[str] | None = None) -> Membership:
        """The next one, of these regions; with the witnesses that it had, if none are given."""
        members = frozenset(regions)
        voting = self.witnesses if witnesses is None else witnesses
        return Membership.of(members, epoch=self.epoch + 1, left=self.origins - members, witnesses=voting)

    def with_region(self, region: str) -> Membership:
        return self.of_regions({*self.regions, region})

    def without(self, region: str) -> Membership:
        return self.of_regions(each for each in self.regions if each != region)

    @cached_property
    def origins(self) -> frozenset[Origin]:
        """Whose entries there may be."""
        return frozenset(origin_of(region, 0) for region in (*self.regions, *self.left))

    def linked(self, own: str) -> tuple[RegionName, ...]:
        """The regions that a region has links to. A witness has none."""
        return () if own in self.witnesses else tuple(each for each in self.regions if each != own)

    @cached_property
    def voters(self) -> tuple[RegionName, ...]:
        """Whose acceptors decide: all regions, and witnesses. Sorted."""
        return _sorted((*self.regions, *self.witnesses))


def _sorted(regions: Iterable[str]) -> tuple[RegionName, ...]:
    return tuple(map(RegionName, sorted(regions)))


class Members:
    """Of one node. Nobody keeps a copy of `current`: it is asked whenever it is needed."""

    def __init__(self, current: Membership) -> None:
        self.current = current
        self.heirs: Heirs = NOBODY
        """Who has the rights of regions that have left, as far as this node has read."""
        self.once: frozenset[str] = frozenset(current.regions)
        """All regions that were members, as far as this node knows."""

    def change(self, to: Membership, *, own: str) -> None:
        """Raises ConfigError for a membership of an epoch that is not later, or without the node's own region."""
        if to.epoch <= self.current.epoch:
            raise ConfigError(f"membership {to.epoch} does not come after membership {self.current.epoch}")
        if own not in (to.witnesses if own in self.current.witnesses else to.regions):
            raise ConfigError(f"membership {to.epoch} lacks {own}, which is to follow it")
        self.current = to
        self.once |= {*to.regions}

    def remember(self, origins: Iterable[str]) -> None:
        """Whose entries the store or a peer holds: regions that are no members have left."""
        left = frozenset(map(region_of, origins)) - self.origins
        if left:
            self.current = replace(self.current, left=_sorted({*self.current.left, *left}))

    @property
    def regions(self) -> tuple[RegionName, ...]:
        return self.current.regions

    @property
    def voters(self) -> tuple[RegionName, ...]:
        return self.current.voters

    @property
    def witnesses(self) -> tuple[RegionName, ...]:
        return self.current.witnesses

    @property
    def origins(self) -> frozenset[Origin]:
        return self.current.origins
