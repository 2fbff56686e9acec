"""Which acceptors count, and how one that lost its promises comes back.

A region that lost its disk, or went back to a backup, has lost what it promised. It must not vote on: a proposer
may count a lost promise beside a new one. So each acceptor has an *incarnation*, the region's own, and it votes
again only after it has joined:

1. Its new incarnation is recorded by other acceptors, durably. From then on they refuse every request whose
   proposer still counts on the former one.
2. It takes over what they have promised and accepted, read after they recorded it.
3. It votes once `enough` have been read, and the longest lease that was found there is over.

Why that is safe: any value that the former incarnation has helped to decide was accepted by a majority. Without it,
that majority still shares an acceptor X with those that were read. If X accepted before it recorded the new
incarnation, the value was read from X. If after, X had refused. Of a lease that the
former incarnation has granted, X knows, too. It cannot last longer than if X had granted it when it was read.
"""

from __future__ import annotations

import msgspec

from atoll.consensus.round import Voters


class Joining(msgspec.Struct, frozen=True):
    """An acceptor that does not vote yet."""

    region: str
    members: frozenset[str]
    before: frozenset[str] = frozenset()
    """The set before, while what it has decided may lie there only: see `consensus.acceptor_set`."""
    named: frozenset[str] = frozenset()
    """All regions that its configuration names."""
    read: frozenset[str] = frozenset()
    """Of these all was read that they have promised and accepted, after they recorded the incarnation."""
    voting: frozenset[str] = frozenset()
    """Those of `read` that vote themselves: the others may lack promises, too."""

    @property
    def asked(self) -> frozenset[str]:
        """The regions to read: all others that vote or have voted; where there are none, whoever may know of some."""
        alone = frozenset({self.region}) in (self.members, self.before)
        return (self.members | self.before | (self.named if alone else frozenset())) - {self.region}

    @property
    def enough(self) -> bool:
        """All others; or so many that vote that this one and those that were not read are no majority."""
        return all(self._read_enough(each) for each in (self.members, self.before) if self.region in each)

    def _read_enough(self, members: frozenset[str]) -> bool:
        others = members - {self.region}
        if not others:
            return self.read >= self.asked
        return self.read >= others or 2 * len(self.voting & others) >= len(members)


def later(ours: Voters, theirs: Voters) -> dict[str, int]:
    """Each acceptor's latest incarnation."""
    return {**theirs, **{region: max(mine, theirs.get(region, 0)) for region, mine in ours.items()}}


def outdated(asked: Voters, recorded: Voters, region: str, incarnation: int) -> bool:
    """Whether a request counts on acceptors as they are no more; `region` and `incarnation` are the asked one's own."""
    return asked.get(region) != incarnation or any(
        asked[other] < known for other, known in recorded.items() if other in asked
    )
