"""A region: one database, its commit group commit, its links to the peers, and all that serves around them.

The same object serves inside an application's process (`atoll.open`), behind HTTP (`atoll.http`) and in
the simulator; clock, randomness, store and network are given to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from atoll.causality.uncertainty import Interval
from atoll.membership.members import Membership
from atoll.protocol import port
from atoll.region.building import Building, Surroundings
from atoll.region.claiming import Means
from atoll.region.divergence import entry_digest
from atoll.region.holders import check_held
from atoll.region.receiving import shared_work
from atoll.region.shapes import shapes_of
from atoll.region.showing import Showing
from atoll.region.site import Site
from atoll.region.status import Check, RegionStatus, health_of, status_of
from atoll.region.tasks import Background, ended
from atoll.region.verification import Verifier
from atoll.region.wiring import Parts
from atoll.replication.messages import (
    AcceptorsCall,
    Call,
    DigestCall,
    EntryCall,
    EntryReply,
    GoesOnCall,
    HeldCall,
    JoinCall,
    PingCall,
    PingReply,
    PlaceCall,
    ReadCall,
    ReadReply,
    RelieveCall,
    Reply,
    SagaCall,
    SettleCall,
    SnapshotCall,
    VoteCall,
    WriteCall,
    WritesCall,
)
from atoll.schema.application import Application
from atoll.schema.bounds import bounds_of
from atoll.store.port import Store, StoreStatistics

logger = logging.getLogger("atoll.region")


class Region(Parts):
    """Create it, `start` it inside a running event loop, `stop` it."""

    def __init__(
        self,
        site: Site,
        regions: Sequence[str],
        application: Application,
        store: Store,
        witnesses: Sequence[str] = (),
    ) -> None:
        super().__init__(site, regions, application, store, witnesses)
        application = self.application
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.showing = Showing(self.store, self.registers, self.voting.unshown)
        self.building = _building(self)
        self.transactions.claims.whole = self.building.require_counts
        if self.registers.any and not self.witness:
            self.background += (Background("decided values", self.showing.run),)
        if not self.witness:
            self.group_commit.listen(self.building.committed)
            part = Background("what documents that exist need", self.building.run, self.building.open)
            self.background += (part,)
        verifier = Verifier(application.stored, self.links, self.digests, site)
        # What the region is asked, and the part that answers it.
        self.write = self.writer.write
        self.transact, self.snapshot = self.transactions.commit, self.transactions.snapshot
        self.read, self.list, self.siblings = self.reader.read, self.reader.list, self.reader.siblings
        self.changes = self.feed.changes
        self.list_conflicts, self.resolve = self.conflicts.page, self.conflicts.resolve
        self.list_events = self.event_retention.page
        self.start_saga, self.find_saga, self.list_sagas = self.sagas.start, self.sagas.find, self.sagas.page
        self.tell_saga, self.await_saga = self.sagas.tell, self.sagas.concluded
        self.saga_doubts = self.sagas.driving.doubts
        self.check_token, self.parked = self.lost.check, store.parked
        self.digest, self.verify = verifier.digest, verifier.compare
        self.stream, self.ended = self.journal_sender.stream, self.inheritance.ended

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the store holds, open the links and begin background work.

        Raises what the store raises, and DeclarationError where documents are stored that a declaration does not fit.
        """
        await self.store.open_collections(self.tables)
        await self.store.declare(shapes_of(self.application))
        for part in self.background:
            if part.open is not None:
                await part.open()
        if not (self.snapshot_install.reads() or self.restore.reads()):  # else half of the documents are here
            for name in sorted(await _due(self)):
                if name in self.rules and not self.rules[name].schema.policy.by_quorum:
                    await check_held(self.rules[name], self.store)
        for peer in self.links:
            self._open_link(peer)
        for part in self.background:
            self._spawn(part.run(), part.name)

    async def stop(self) -> None:
        """End everything that `start` began; the store stays open for whoever owns it."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await ended(tasks)
        await self.transactions.close()
        await self.proposer.close()
        self.intake.close()
        await self.group_commit.close()

    async def change_members(self, to: Membership) -> None:
        """Follow a membership of a later epoch: open links to regions that came, end links to those that left.

        Raises ConfigError. Nobody waits for a region that has left; its entries stay, and are relayed.
        """
        bounds = bounds_of(self.options.document_bytes, len(to.regions))
        self.members.change(to, own=self.name)
        self.bounds = bounds
        peers = frozenset(to.linked(self.name))
        left = [peer for peer in self.links if peer not in peers]
        running = bool(self._tasks)
        for peer in left:
            del self.links[peer]
        for peer in sorted(peers - self.links.keys()):
            self.links[peer] = self._link(peer)
            if running:
                self._open_link(peer)
        for post in self.protocols:
            post(port.MembersChanged(peers))
        self.node_leases.want(shared_work(self.links, self.application))
        self.review_links()
        self.inheritance.wake()
        names = [name for peer in left for name in (_link_task(peer), _clock_task(peer)) if running]
        await ended([self._tasks.pop(name) for name in names])
        for peer in left:
            self.clocks.forget(peer)

    def _open_link(self, peer: str) -> None:
        self._spawn(self.links[peer].run(self.review_links), _link_task(peer))
        self._spawn(self.clocks.compare(peer), _clock_task(peer))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks[name] = task = asyncio.create_task(work, name=f"{self.name}: {name}")
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Background work never ends by itself: a defect that ends it must not pass unseen."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended", task.get_name(), exc_info=task.exception())
            self.gates.broken = f"{task.get_name()} ended: {task.exception()!r}"

    # -- clients ---------------------------------------------------------------------------------------

    async def shown(self, collection: str, key: str) -> bytes | None:
        """The document as JSON text, as this region shows it now."""
        return (await self.reader.read_here(collection, key)).value

    async def cursor(self, vector: Mapping[str, int] | None) -> dict[str, int]:
        """A cursor that `changes` can start from; without one, the oldest. Raises CursorExpired."""
        entered = self.gates.enter()
        found = await self.feed.oldest_cursor() if vector is None else dict(vector)
        await self.feed.check_cursor(found)
        self.gates.leave(entered)
        return found

    async def refresh(self) -> dict[str, int]:
        """What the region has, with all that its other nodes have committed. Raises what the store raises."""
        await self.group_commit.progress.refresh()
        return self.vector

    @property
    def membership(self) -> Membership:
        """Which regions there are, and which have left."""
        return self.members.current

    @property
    def regions(self) -> tuple[str, ...]:
        """The members, this one among them."""
        return self.members.regions

    @property
    def peers(self) -> Collection[str]:
        """The other regions, and witnesses."""
        return [region for region in self.members.voters if region != self.name]

    # -- operators -------------------------------------------------------------------------------------

    def status(self) -> RegionStatus:
        """What the region reports of itself."""
        return status_of(self)

    def clock_interval(self) -> Interval:
        """Where the time lies at present, by this node's clock, its kernel and its peers' clocks."""
        return self.clocks.now()

    def health_of(self, check: Check) -> str | None:
        """Why the node is not live, ready, serving or reading; None when it is."""
        return health_of(self, check)

    def check_whole(self) -> None:
        """Raises Unavailable while reads are closed."""
        self.gates.enter()

    def note_stall(self, longest_s: float) -> None:
        """The longest time of late that something held the event loop."""
        self.statistics.loop_stall_s = longest_s

    def count_invalid_trace(self) -> None:
        """A trace context was malformed, and dropped."""
        self.statistics.invalid_traces += 1

    async def claim(self, name: str) -> bool:
        """Lease a name to this node of the region; False while another node has it. Raises what the store raises."""
        return await self.node_leases.claim(name) is not None

    def drain(self, draining: bool) -> None:
        """Have load balancers send requests elsewhere; those that come are served."""
        self.gates.draining = draining

    async def contents(self) -> StoreStatistics:
        """How much the store holds; may take a full scan."""
        found = await self.store.statistics()
        return replace(
            found,
            documents={name: n for name, n in found.documents.items() if not name.startswith("_")},
            tombstones={name: n for name, n in found.tombstones.items() if not name.startswith("_")},
        )

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good: nobody waits for it, or for what it alone held."""
        self.failover.post(port.Forgotten(peer))
        self.startup_check.post(port.Forgotten(peer))
        self.sagas.rights.forget(peer)

    async def decide_alone(self) -> list[str]:
        """Since a majority is lost for good. Returns who decides on strong documents. Raises InvalidOperation."""
        return list((await self.acceptor_sets.decide_alone()).members)

    # -- peers -----------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Reply:
        """Answer a peer."""
        if self.witness and not isinstance(call, VoteCall | JoinCall | AcceptorsCall | SettleCall | PingCall):
            self.check_whole()  # a gate says why
        match call:
            case WriteCall():
                return await self.writer.take(call)
            case WritesCall():
                return await self.writer.take_all(call)
            case VoteCall():
                return await self.voting.vote(call)
            case JoinCall():
                return await self.acceptor_sets.joiner.join(call)
            case AcceptorsCall():
                return self.acceptor_sets.answer(call)
            case RelieveCall():
                return await self.unfinished.relieve(call)
            case PlaceCall():
                return await self.writer.place(call)
            case SettleCall():
                return await self.transactions.settle(call)
            case GoesOnCall():
                return self.proposer.outcomes.goes_on(call.transaction)
            case ReadCall() if not call.vector and self.registers.concerns_reads(call.collection):
                reading = await self.registers.read(call.collection, call.key, forward=False)
                return ReadReply(reading.value, reading.version, dict(reading.vector))
            case ReadCall():
                await self.waits.require(call.vector)
                if self.ownership.concerns_reads(call.collection):
                    await self.gates.ordered()
                reading = await self.reader.read_here(call.collection, call.key)
                return ReadReply(reading.value, reading.version, dict(reading.vector))
            case SnapshotCall():
                return await self.snapshot_install.page(call)
            case DigestCall():
                entered = self.gates.enter()
                digest = await self.digests.of(call.collection, call.bucket)
                self.gates.leave(entered)
                return digest
            case PingCall():
                return PingReply(
                    self.name, self.now_ms(), self.application.fingerprint(), self.clocks.kernel_ms()
                )
            case SagaCall():
                return await self.sagas.answer(call)
            case HeldCall():
                return await self.sagas.held(call)
            case EntryCall():
                return EntryReply(await entry_digest(self.store, call.origin, call.seq))


def _link_task(peer: str) -> str:
    return f"link to {peer}"


def _clock_task(peer: str) -> str:
    return f"clock of {peer}"


async def _due(region: Region) -> set[str]:
    """Collections whose documents may follow another declaration than this node's."""
    stored = await region.store.schemas()
    return region.redeclaration.due(stored) & stored.keys()  # of others there are no documents


def _building(region: Region) -> Building:
    means = Means(region.store, region.registers, region.transactions.hold, region.local_writes.write)
    around = Surroundings(
        region.members,
        region.links,
        region.group_commit,
        region.showing,
        lambda: region.snapshot_install.reads() or region.restore.reads(),
        lambda: _due(region),
    )
    return Building(region.site, region.rules, means, around, region.events.record)
