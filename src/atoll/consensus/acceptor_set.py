"""Which regions' acceptors decide, and how that changes by one region at a time.

Sets have consecutive *epochs*. What follows a set is decided by a majority of it, in a register of its own. So there is
one chain of sets, and nobody makes two different steps from one set. Each request names the set that its proposer
counts. An acceptor records a later set as soon as it hears of it. Then it refuses what counts on an earlier one.

Majorities of sets that differ by one region share an acceptor. So what was decided in one set is read in the next one.
But not in the one after: therefore a change is *moving* until nothing depends on the former set any more. A region of
the former set has *moved* once all that its acceptor holds is held by a majority of the new set.
Once enough have moved, the change is *settled*. That is a step of the chain, too. Only a settled set may change.

Why enough have moved: what the former set has decided was accepted by a majority of it, and any majority has a region
that moved. That region accepted it before it recorded the new set, so it has moved it. Nothing is decided in the former
set any more, even if regions lose their disks. For one that joins anew reads half of the former set. So it reads a
region that has moved, and hears of the new set. A move counts for the incarnation that made it: not once that is lost.

Single changes are those of Ongaro, "Consensus: Bridging Theory and Practice", 2014, chapter 4. That each set decides
the next one is from Lamport, Malkhi and Zhou, "Reconfiguring a state machine", 2010.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from atoll.consensus.outcome import OUTCOMES
from atoll.consensus.round import Voters

_LEAP: Final = 1_000_000
SETS: Final = "_acceptors/"
"""Registers of this prefix decide what follows a set: its epoch is their name."""


class AcceptorSet(msgspec.Struct, array_like=True, frozen=True):
    """Whose acceptors decide."""

    epoch: int
    members: tuple[str, ...]
    """Sorted."""
    before: tuple[str, ...] = ()
    """The members of the former set, while what it has decided may lie there only; empty once that is settled."""
    entrant: tuple[str, int] | None = None
    """The region that the last change has added, and the incarnation that has promised nothing to anybody before."""

    @property
    def settled(self) -> bool:
        """Whether it may change."""
        return not self.before

    @property
    def register(self) -> str:
        """Which decides what follows."""
        return f"{SETS}{self.epoch}"

    def having(self, region: str, incarnation: int) -> AcceptorSet:
        """The next one, with another region."""
        members = tuple(sorted({*self.members, region}))
        return AcceptorSet(self.epoch + 1, members, self.members, (region, incarnation))

    def without(self, region: str) -> AcceptorSet:
        """The next one."""
        return AcceptorSet(
            self.epoch + 1, tuple(each for each in self.members if each != region), self.members
        )

    def alone(self, region: str) -> AcceptorSet:
        """Of one region, decided by nobody: for when a majority is lost for good. No chain of the others gets there."""
        return AcceptorSet(self.epoch + _LEAP, (region,))

    def all_moved(self) -> AcceptorSet:
        """The next one, once `enough_moved`."""
        return AcceptorSet(self.epoch + 1, self.members)

    def enough_moved(self, moved: Iterable[str]) -> bool:
        """Whether a majority of the former set has moved. A region that is removed counts only where it is needed."""
        needed, stayed = len(self.before) // 2 + 1, {*self.before} & {*self.members}
        counted = stayed if len(stayed) >= needed else {*self.before}
        return len(counted & {*moved}) >= needed


class Counted(NamedTuple):
    """What a proposer counts: a ballot that one set has promised says nothing about another, of the same regions."""

    set: AcceptorSet
    voters: Voters


def of_document(register: str) -> bool:
    """Whether a register holds a document, and not the outcome of a transaction or what follows a set."""
    return not register.startswith((OUTCOMES, SETS))


def wanted(
    current: AcceptorSet, files: Mapping[str, Iterable[str]], region: str, incarnation: int
) -> AcceptorSet | None:
    """The step that a region takes; None where there is none, or it is another region's.

    `files`: what the configuration of each region that answers names. The set follows what a majority of its members
    say. A region adds itself, so that it is there. It goes before those that leave.
    """
    said = [frozenset(files[member]) for member in current.members if member in files]
    needed = len(current.members) // 2 + 1

    def agreed(name: str, *, member: bool) -> bool:
        return sum((name in each) is member for each in said) >= needed

    if region not in current.members:
        return current.having(region, incarnation) if agreed(region, member=True) else None
    if any(agreed(name, member=True) for name in files if name not in current.members):
        return None
    leaving = [name for name in current.members if agreed(name, member=False)]
    return current.without(leaving[0]) if leaving and len(current.members) > 1 else None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AcceptorSet).decode


def encoded(value: AcceptorSet) -> bytes:
    """As registers and stores keep it."""
    return _encode(value)


def decoded(stored: bytes) -> AcceptorSet:
    """Raises msgspec.DecodeError."""
    return _decode(stored)
