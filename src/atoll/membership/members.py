"""Which regions there are: a value with an epoch, and the holder that every part of a region asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from atoll.causality.types import Epoch, RegionName
from atoll.errors import ConfigError


@dataclass(frozen=True)
class Membership:
    """The regions of a deployment at one epoch. A change makes the value of the next epoch."""

    epoch: Epoch
    regions: tuple[RegionName, ...]
    """Sorted."""
    left: tuple[RegionName, ...] = ()
    """Regions that were members before. Their entries are still held, relayed and accepted."""

    @classmethod
    def of(cls, regions: Iterable[str], *, epoch: int = 1, left: Iterable[str] = ()) -> Membership:
        return cls(Epoch(epoch), _sorted(regions), _sorted(left))

    def with_region(self, region: str) -> Membership:
        left = (each for each in self.left if each != region)
        return Membership.of({*self.regions, region}, epoch=self.epoch + 1, left=left)

    def without(self, region: str) -> Membership:
        rest = (each for each in self.regions if each != region)
        return Membership.of(rest, epoch=self.epoch + 1, left={*self.left, region})

    @cached_property
    def origins(self) -> frozenset[RegionName]:
        """Whose entries there may be."""
        return frozenset((*self.regions, *self.left))


def _sorted(regions: Iterable[str]) -> tuple[RegionName, ...]:
    return tuple(map(RegionName, sorted(regions)))


class Members:
    """Of one node. Nobody keeps a copy of `current`: it is asked whenever it is needed."""

    def __init__(self, current: Membership) -> None:
        self.current = current

    def change(self, to: Membership, *, own: str) -> None:
        """Raises ConfigError for a membership of an epoch that is not later, or without the node's own region."""
        if to.epoch <= self.current.epoch:
            raise ConfigError(f"membership {to.epoch} does not come after membership {self.current.epoch}")
        if own not in to.regions:
            raise ConfigError(f"membership {to.epoch} lacks {own}, which is to follow it")
        self.current = to

    @property
    def regions(self) -> tuple[RegionName, ...]:
        return self.current.regions

    @property
    def origins(self) -> frozenset[RegionName]:
        return self.current.origins
