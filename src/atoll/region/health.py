"""Whether a node should be sent requests, and why not."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality import vector as vectors
from atoll.region.clocks import Clocks
from atoll.region.group_commit import GroupCommit
from atoll.region.recovery import FailoverRecovery, RestoreRecovery, StartupCheck
from atoll.region.snapshot_install import SnapshotInstall
from atoll.replication.link import Link


class Health:
    """What the parts of one node say of themselves, as one answer."""

    def __init__(
        self,
        region: str,
        links: Mapping[str, Link],
        group_commit: GroupCommit,
        *,
        clocks: Clocks,
        startup_check: StartupCheck,
        restore: RestoreRecovery,
        failover: FailoverRecovery,
        snapshot_install: SnapshotInstall,
    ) -> None:
        self.draining = False
        """Whether the operator wants no more requests to come here."""
        self.broken: str | None = None
        """Why work in the background has ended, which it never should."""
        self._region = region
        self._links = links
        self._group_commit = group_commit
        self._clocks = clocks
        self._startup_check = startup_check
        self._restore = restore
        self._failover = failover
        self._snapshot_install = snapshot_install

    def check_whole(self) -> None:
        """Raises Unavailable while documents here are not what the region's vector says."""
        self._restore.check()
        self._snapshot_install.check()

    @property
    def caught_up(self) -> bool:
        """Whether each peer that can be reached has been heard and nothing it had then is missing."""
        here = self._group_commit.vector
        statuses = [link.status for link in self._links.values()]
        reachable = [status for status in statuses if status.connected]
        return (
            not self._restore.pending
            and not self._snapshot_install.pending
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
        if self._restore.pending:
            return self._restore.reason
        return self._snapshot_install.serves_nothing or self.broken

    @property
    def writes_nothing(self) -> str | None:
        """Why writes are refused here, or have to wait; reads go on."""
        if self._failover.pending:
            return self._failover.reason
        if not self._startup_check.over or (self._startup_check.recovering and self._startup_check.lacks_own):
            return self._startup_check.reason
        if self._group_commit.store_error is not None:
            return self._group_commit.store_error.message
        if self._clocks.off_ms > 0:
            return f"the clock is {self._clocks.off_ms} ms outside what the peers agree on"
        return None
