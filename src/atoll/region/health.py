"""What `/health/…` answers: whether a node should be sent requests, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from atoll.causality import vector as vectors
from atoll.region.gates import Gates
from atoll.region.group_commit import GroupCommit
from atoll.replication.link import Link

Check = Literal["live", "ready", "serving", "reading"]


class Health:
    """Of one node, derived from its gates and links."""

    def __init__(
        self, region: str, links: Mapping[str, Link], group_commit: GroupCommit, gates: Gates
    ) -> None:
        self._region = region
        self._links = links
        self._group_commit = group_commit
        self._gates = gates

    def of(self, check: Check) -> str | None:
        """Why the node is not live, ready, serving or reading; None when it is."""
        match check:
            case "live":
                return None
            case "ready":
                return None if self.caught_up else "not caught up with its peers yet"
            case "serving":
                return self._gates.closed
            case "reading":
                return self._gates.reads_closed

    @property
    def caught_up(self) -> bool:
        """Whether each peer that can be reached has been heard and nothing it had then is missing."""
        here = self._group_commit.progress.vector
        statuses = [link.status for link in self._links.values()]
        reachable = [status for status in statuses if status.connected]
        return (
            self._gates.whole
            and all(status.since_ms for status in statuses)
            and all(vectors.descends(here, {s.peer: s.advertised.get(s.peer, 0)}) for s in reachable)
            and (
                here.get(self._region, 0)
                >= max((s.advertised.get(self._region, 0) for s in reachable), default=0)
            )
        )
