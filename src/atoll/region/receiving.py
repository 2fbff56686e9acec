"""What the links of a node report to its region, and what they ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atoll.causality.origin import Origin
from atoll.documents.entry import EncodedEntry
from atoll.errors import HostileEntry, RegionLeft, ReplicationError
from atoll.membership.members import Members
from atoll.protocol import port
from atoll.recovery import startup_check
from atoll.recovery.relays import RelayState
from atoll.region.driver import Driver
from atoll.region.event_log import EventLog
from atoll.region.freshness import Freshness
from atoll.region.group_commit import GroupCommit
from atoll.region.inheritance import Inheritance
from atoll.region.intake import Intake
from atoll.region.lost import Lost
from atoll.region.node_leases import NodeLeases
from atoll.region.recovery import FailoverRecovery, RestoreRecovery, StartupCheck
from atoll.region.saga_driving import LEASE
from atoll.region.sagas import Sagas
from atoll.region.site import Site
from atoll.region.snapshot_install import SnapshotInstall
from atoll.replication.link import Link
from atoll.replication.wire import Heartbeat
from atoll.schema.application import Application


class Receiving:
    """Implements `replication.link.Receiver`. `region.wiring.Parts` builds what it uses."""

    name: str
    site: Site
    members: Members
    links: dict[str, Link]
    group_commit: GroupCommit
    intake: Intake
    inheritance: Inheritance
    freshness: Freshness
    lost: Lost
    node_leases: NodeLeases
    startup_check: StartupCheck
    restore: RestoreRecovery
    failover: FailoverRecovery
    snapshot_install: SnapshotInstall
    sagas: Sagas
    events: EventLog
    _relays: Driver[RelayState, port.Heard | port.MembersChanged]

    @property
    def origin(self) -> Origin:
        """Under which this region numbers its entries."""
        return self.startup_check.state.origin

    @property
    def vector(self) -> dict[str, int]:
        """What this region has."""
        return self.group_commit.progress.vector

    def deliver(self, encoded: Sequence[EncodedEntry], link: str) -> None:
        """Raises HostileEntry for what a region wrote after it had left."""
        self.inheritance.fence.check_entries(link, encoded, self.vector)
        self.intake.deliver(encoded, link)
        if self._relays.state.noticed and link in self.links:
            # A link that is busy for long brings no heartbeat, and what comes may wait for what has to be asked for.
            self._relays.post(port.Heard(link, self.links[link].status.advertised, self.vector))

    async def backpressure(self, link: str, bytes_waiting: int) -> None:
        await self.intake.backpressure(link, bytes_waiting)

    def check_peer(self, peer: str) -> None:
        """Raises RegionLeft for a region that was a member before, HostileEntry for one that never was."""
        if peer in self.members.voters and peer != self.name:
            return
        if peer != self.name and peer in self.members.once:
            raise RegionLeft(f"{self.name} says that {peer} was taken out of the deployment")
        raise HostileEntry(f"{peer!r} is not another region of this deployment")

    def refused(self, peer: str, error: ReplicationError) -> None:
        """What a peer sent was refused."""
        if peer in self.links:
            self.links[peer].refuse(error)

    def too_late(self, peer: str, past: dict[str, int]) -> None:
        if peer not in self.links:
            return  # it left while this was on its way
        self.snapshot_install.too_late(peer, past)

    def heard(self, peer: str, heartbeat: Heartbeat) -> None:
        if peer not in self.links:
            return
        self.inheritance.fence.check_link(peer, heartbeat.vector, self.vector)
        self.freshness.heard(heartbeat, self.group_commit.progress.vector)
        self.lost.closed(heartbeat.closed)
        if self.lost.ended(self.origin):
            self.startup_check.post(startup_check.Ended(heartbeat.closed, self.vector))
        heard = port.Heard(peer, heartbeat.vector, self.group_commit.progress.vector)
        self.restore.post(heard)
        announced = self.links[peer].status.advertised
        self.members.remember(announced)
        self._relays.post(port.Heard(peer, announced, self.group_commit.progress.vector))
        if not self.links[peer].renewing:
            self.failover.post(heard)
            self.startup_check.post(port.Heard(peer, announced, heard.here))

    def origins(self, peer: str) -> tuple[str, ...]:
        """The peer's own entries, and those of everyone out of reach.

        They are asked of every peer, for any one of them may be just as cut off. What comes twice is dropped.
        So are those that an origin's region has lost with its disk, this region among them (`recovery.relays`).
        Of several nodes one pulls from a peer; the others only want to hear how far it is.
        """
        if not self.holds(peer) or self.snapshot_install.state.pulling:
            return ()
        wanted = {origin for relay, origin in self._relays.state.asked if relay == peer}
        wanted.update(other for other, link in self.links.items() if not link.status.connected)
        return (peer, *sorted(wanted - {peer}))

    def holds(self, peer: str) -> bool:
        """Whether it is this node of the region that pulls from `peer`."""
        return link_lease(peer) in self.node_leases.held

    def review_links(self) -> None:
        for link in self.links.values():
            link.review()
        self.sagas.runner.wake()
        self.events.links_changed()

    def _link(self, peer: str) -> Link:
        return Link(
            peer,
            self,
            self.site.peers,
            self.site.link_key,
            now_ms=self.site.now_ms,
            random=self.site.random,
            options=self.site.options.link,
        )


def link_lease(peer: str) -> str:
    """The name of a lease."""
    return f"link {peer}"


def shared_work(links: Iterable[str], application: Application) -> list[str]:
    """The names of leases: what the nodes of a region share out among them. All of them have the same order."""
    return [*map(link_lease, sorted(links)), *([LEASE] if application.sagas else [])]
