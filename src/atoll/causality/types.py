"""The plain values that must not be mixed up, as types of their own.

Regions, seqs, stamps and epochs are texts and integers everywhere. A checker tells them apart where a signature names
these; at run time they cost nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NewType

from atoll.causality.origin import Origin

RegionName = NewType("RegionName", str)
Seq = NewType("Seq", int)
"""An entry's place in its origin's journal, from 1."""
Stamp = NewType("Stamp", int)
"""Of the hybrid logical clock: `(unix milliseconds << 16) | counter`."""
Epoch = NewType("Epoch", int)
"""Of a membership or an owner; a later one overrules."""
Generation = NewType("Generation", int)
"""Of a node lease; it grows each time that the holder changes."""
EVERYONE: Final = None
"""The audience of all regions, present and future."""
Audience = tuple[RegionName, ...] | None
"""The regions that may hold some data, in order of their names; or EVERYONE."""


class Dot(NamedTuple):
    """Names one entry."""

    origin: Origin
    seq: Seq

    def __str__(self) -> str:
        return f"{self.origin}:{self.seq}"


Order = tuple[Stamp, Origin, Seq]
"""Of writes: the same in every region, and an extension of causality. See `causality.place`."""


class Ballot(NamedTuple):
    """Orders the proposals for one consensus register. No two proposals have the same one."""

    number: int
    proposer: str
    """The region, a slash, and what tells one process of it from every other."""

    @property
    def region(self) -> RegionName:
        return RegionName(self.proposer.partition("/")[0])
