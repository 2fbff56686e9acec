"""What every region has seen, so that whatever any of them writes from now on was written having seen it."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality.floor import fold
from atoll.causality.vector import VersionVector, descends
from atoll.membership.members import Members
from atoll.region.progress import Progress
from atoll.replication.link import Linked

_HERE = ""
"""In place of a peer's name."""


class Stability:
    """Ask it now and then: it compares what it sees with what it saw before."""

    def __init__(self, members: Members, links: Mapping[str, Linked], progress: Progress) -> None:
        self._members = members
        self._links = links
        self._progress = progress
        self._announced: dict[str, VersionVector] = {}
        """What each region had at the last look, this one among them; empty if one was away."""

    @property
    def regions(self) -> tuple[str, ...]:
        return self._members.regions

    def look(self) -> VersionVector:
        """What every region had at the last look; empty where that is not known."""
        return self._stable()

    def _stable(self) -> VersionVector:
        """What every region had at the last look; empty unless all that they had then is here.

        Whatever a region writes later, it writes having seen that. A region that lost its disk has not, whatever it
        had announced before: so all of them must still announce it. A region that installs a snapshot announces what it
        does not show yet, and a removal would meet nothing there.
        """
        here = dict(self._progress.vector)
        peers = {peer: self._links[peer].status for peer in self._members.regions if peer in self._links}
        known = all(status.connected and status.advertised and status.whole for status in peers.values())
        now: dict[str, VersionVector] = {}
        if known:
            now = {**{peer: dict(status.advertised) for peer, status in peers.items()}, _HERE: here}
        before, self._announced = self._announced, now
        if not before or before.keys() != now.keys():
            return {}
        if not all(descends(here, had) and descends(now[region], had) for region, had in before.items()):
            return {}
        first, *others = before.values()
        stable = {
            origin: min(seq, *(vector.get(origin, 0) for vector in others)) if others else seq
            for origin, seq in first.items()
        }
        return dict(fold(stable))
