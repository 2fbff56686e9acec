"""Whether a node should be sent requests, and why not."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality import vector as vectors
from atoll.recovery.failover import Succession
from atoll.recovery.restore import Reintroduction
from atoll.region.clocks import Clocks
from atoll.region.group_commit import Door
from atoll.region.snapshot_install import CatchingUp
from atoll.region.startup_check import Introduction
from atoll.replication.link import Link


class Health:
    """What the parts of one node say of themselves, as one answer."""

    def __init__(
        self,
        region: str,
        links: Mapping[str, Link],
        door: Door,
        *,
        clocks: Clocks,
        introduction: Introduction,
        reintroduction: Reintroduction,
        succession: Succession,
        catching_up: CatchingUp,
    ) -> None:
        self.draining = False
        """Whether the operator wants no more requests to come here."""
        self.broken: str | None = None
        """Why work in the background has ended, which it never should."""
        self._region = region
        self._links = links
        self._door = door
        self._clocks = clocks
        self._introduction = introduction
        self._reintroduction = reintroduction
        self._succession = succession
        self._catching_up = catching_up

    def check_whole(self) -> None:
        """Raises Unavailable while documents here are not what the region's vector says."""
        self._reintroduction.check()
        self._catching_up.check()

    @property
    def caught_up(self) -> bool:
        """Whether each peer that can be reached has been heard and nothing it had then is missing."""
        here = self._door.vector
        statuses = [link.status for link in self._links.values()]
        reachable = [status for status in statuses if status.connected]
        return (
            not self._reintroduction.pending
            and not self._catching_up.pending
            and all(status.since_ms for status in statuses)
            and all(vectors.descends(here, {s.peer: s.advertised.get(s.peer, 0)}) for s in reachable)
            and (
                here.get(self._region, 0)
                >= max((s.advertised.get(self._region, 0) for s in reachable), default=0)
            )
        )

    @property
    def out_of_service(self) -> str | None:
        """Why a load balancer should send nobody here; None when it should."""
        return self.reads_nothing or self.writes_nothing

    @property
    def reads_nothing(self) -> str | None:
        """Why not even reads should be sent here."""
        if self.draining:
            return "draining"
        if self._reintroduction.pending:
            return self._reintroduction.reason
        return self._catching_up.serves_nothing or self.broken

    @property
    def writes_nothing(self) -> str | None:
        """Why writes are refused here, or have to wait; reads go on."""
        if self._succession.pending:
            return self._succession.reason
        if not self._introduction.over or (self._introduction.recovering and self._introduction.lacks_own):
            return self._introduction.reason
        if self._door.store_error is not None:
            return self._door.store_error.message
        if self._clocks.off_ms > 0:
            return f"the clock is {self._clocks.off_ms} ms outside what the peers agree on"
        return None
