"""A region: one database, its commit group commit, its links to the peers, and all that serves around them.

The same object serves inside an application's process (`atoll.open`), behind HTTP (`atoll.http`) and in
the simulator; clock, randomness, store and network are given to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from atoll.causality.clock import HybridLogicalClock, stamp_ms
from atoll.causality.types import Stamp
from atoll.commit.batch import Batch, Identity
from atoll.commit.snapshot_page import KEPT_ASIDE, check_merged
from atoll.conflicts.guard import guarded
from atoll.documents.entry import EncodedEntry, Entry
from atoll.documents.mutation import Write
from atoll.documents.register import Version
from atoll.documents.rules import Rules, plain_text
from atoll.documents.strategies import Resolver
from atoll.errors import ClockUnsafe, ReplicationError
from atoll.membership.members import Members, Membership
from atoll.ownership.ownership import Ownership, Stored
from atoll.recovery import relays
from atoll.recovery.relays import RelayState
from atoll.region.clocks import Clocks
from atoll.region.conflicts import Conflicts
from atoll.region.divergence import entry_digest, forked_entry
from atoll.region.driver import Actions, Driver, Performer
from atoll.region.event_log import Completions, EventLog
from atoll.region.event_retention import EventRetention
from atoll.region.feed import Feed
from atoll.region.freshness import Freshness
from atoll.region.gates import Gates
from atoll.region.group_commit import GroupCommit
from atoll.region.health import Check, Health
from atoll.region.housekeeping import Housekeeping
from atoll.region.intake import Intake
from atoll.region.journal_sender import JournalSender
from atoll.region.local_writes import LocalWrites
from atoll.region.node_leases import NodeLeases
from atoll.region.options import DEFAULT_OPTIONS, RegionOptions
from atoll.region.progress import Progress
from atoll.region.reader import Reader
from atoll.region.reading import FIRST_PAGE, PLAIN_READ, Listing, ListOptions, Reading, ReadOptions
from atoll.region.recovery import FailoverRecovery, RestoreRecovery, StartupCheck
from atoll.region.redeclaration import Redeclaration
from atoll.region.shapes import shapes_of
from atoll.region.snapshot_install import SnapshotInstall
from atoll.region.snapshot_pages import SnapshotPages
from atoll.region.statistics import Statistics
from atoll.region.status import status_of
from atoll.region.timeline import Timeline
from atoll.region.truncation import Truncation
from atoll.region.verification import Verification
from atoll.region.waits import Waits
from atoll.region.writer import Writer
from atoll.repair.digests import Digests
from atoll.replication.link import Link
from atoll.replication.messages import (
    Call,
    DigestCall,
    EntryCall,
    EntryReply,
    Peers,
    PingCall,
    PingReply,
    ReadCall,
    ReadReply,
    Reply,
    SnapshotCall,
    StreamRequest,
    WriteCall,
    WriteReply,
)
from atoll.replication.signal import Signal
from atoll.replication.wire import Heartbeat
from atoll.rollout.redeclare import fingerprints
from atoll.schema.application import Application, CollectionSchema
from atoll.store.port import AuditFilter, AuditRow, Condition, Parked, Store, StoreStatistics

logger = logging.getLogger("atoll.region")


class Region:
    """Create it, `start` it inside a running event loop, `stop` it."""

    _own_at_first = 0
    """Its own position when it was restored, or rewound: what came since is the peers' own account."""

    def __init__(
        self,
        name: str,
        regions: Sequence[str],
        application: Application,
        store: Store,
        *,
        peers: Peers,
        link_key: bytes,
        physical_ms: Callable[[], int],
        random: Random,
        kernel_uncertainty_ms: Callable[[], int | None] = lambda: None,
        options: RegionOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.name = name
        self.members = Members(Membership.of(regions))
        self.application = application
        self.store = store
        self.options = options
        self.now_ms = physical_ms
        self.gates = Gates(name)
        self.statistics = Statistics()
        self.freshness = Freshness(name)
        self.committed = Signal()
        self._peers = peers
        stored = {name: Rules(schema, self._resolver(schema)) for name, schema in application.stored.items()}
        self.rules: dict[str, Rules] = {name: stored[name] for name in application.collections}
        """Of what a client may name: the team's collections."""
        self.clock = HybridLogicalClock(physical_ms, 0, options.max_clock_offset_ms)
        self.clocks = Clocks(
            name,
            self.clock,
            now_ms=physical_ms,
            kernel_uncertainty_ms=kernel_uncertainty_ms,
            ask=self.ask,
            options=options,
        )
        self.ownership = Ownership(self.members, self.rules)
        self.progress = Progress(store, self._history_changed)
        self.timeline = Timeline(self.progress, self._history_changed)
        self.group_commit = GroupCommit(
            store,
            stored,
            self.clock,
            self._identity,
            physical_ms,
            progress=self.progress,
            timeline=self.timeline,
            options=options.group_commit,
        )
        self.intake = Intake(self.progress, self.group_commit.call, options.intake)
        self.group_commit.supply(self.intake.take)
        self.group_commit.listen(self._after_commit)
        self.progress.follow(self._after_move)
        self.local_writes = LocalWrites(self.group_commit, (self.timeline.check, check_merged), self._admit)
        self._key_and_random = link_key, random
        self.links = {peer: self._link(peer) for peer in self.regions if peer != name}
        performer = self._performer(stored)
        self.redeclaration = Redeclaration(
            performer.pages.fingerprints,
            performer,
            nonce=f"{random.getrandbits(48):x}",
            retry_s=options.housekeeping_s,
        )
        self.node_leases = NodeLeases(
            [_link_to(peer) for peer in self.links], store, performer, lease_s=options.lease_s
        )
        self.startup_check = StartupCheck(name, self.links, performer, patience_s=options.startup_check_s)
        self._relays = Driver(RelayState(name), relays.step, performer)
        self.restore = RestoreRecovery(name, self.links, performer)
        self.failover = FailoverRecovery(name, self.links, performer, patience_s=options.startup_check_s)
        self.snapshot_install = SnapshotInstall(
            performer, store, physical_ms, options, closed=lambda: self.gates.closing(reads=True)
        )
        self.health = self._gated()
        self.waits = Waits(
            name,
            self.group_commit,
            peers=self.links,
            freshness=self.freshness,
            committed=self.committed,
            statistics=self.statistics,
            now_ms=physical_ms,
            options=options,
        )
        self.reader = Reader(
            name,
            self.rules,
            self.links,
            store,
            self.group_commit,
            ask=self.ask,
            ownership=self.ownership,
            gates=self.gates,
            waits=self.waits,
            statistics=self.statistics,
        )
        self.writer = Writer(
            name,
            self.rules,
            self.links,
            store,
            self.group_commit,
            peers=peers,
            ownership=self.ownership,
            gates=self.gates,
            waits=self.waits,
            writes=self.local_writes,
            statistics=self.statistics,
            options=options,
        )
        self.feed = Feed(
            name, self.members, store, self.group_commit, failover=self.failover, committed=self.committed
        )
        self.event_retention = EventRetention(store, self.group_commit, options)
        self.digests = Digests(stored, store, self.event_retention.horizon_of)
        self._journal_sender = JournalSender(
            name,
            self.links,
            store,
            self.group_commit,
            self.intake,
            failover=self.failover,
            freshness=self.freshness,
            committed=self.committed,
            now_ms=physical_ms,
            link_key=link_key,
            heartbeat_s=options.heartbeat_s,
        )
        self.truncation = Truncation(
            self.members, self.links, store, self.group_commit.commit, now_ms=physical_ms, options=options
        )
        self._housekeeping = Housekeeping(
            store,
            self.group_commit,
            truncation=self.truncation,
            now_ms=physical_ms,
            options=options,
        )
        self.events = EventLog(
            name,
            store.holder,
            links=self.links,
            held=self.holds,
            completions=Completions(
                restoring=lambda: self.restore.pending,
                failed_over=lambda: self.failover.state.taken_up,
                snapshots=lambda: self.snapshot_install.completed,
            ),
            write=lambda write: self.writer.write(write, None),
            now_ms=physical_ms,
            random=random,
            limits=options.events,
        )
        self.group_commit.listen(self.events.committed)
        self._conflicts = Conflicts(self.rules, store, self.gates, self.write)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def _link(self, peer: str) -> Link:
        key, random = self._key_and_random
        return Link(
            self.name,
            peer,
            self,
            self._peers,
            key,
            origins=self._origins,
            members=self.members,
            now_ms=self.now_ms,
            random=random,
            options=self.options.link,
        )

    def _performer(self, rules: Mapping[str, Rules]) -> Performer:
        pages = SnapshotPages(
            self.name,
            rules,
            self.store,
            self._peers,
            fingerprints=fingerprints(self.application),
            timeout_s=self.options.peer_timeout_s,
            most_rows=self.options.snapshot_page_rows,
        )
        actions = Actions(
            self._rewind,
            self._forked_entry,
            self._trust,
            claim=lambda lease: self.node_leases.claim(lease),  # noqa: PLW0108 - they come later
            release=lambda lease: self.node_leases.release(lease),  # noqa: PLW0108
            held=lambda: self.node_leases.held,
        )
        return Performer(
            self.name, self.store, self.group_commit, self.links, pages, actions, self.clock, self.now_ms
        )

    def _gated(self) -> Health:
        gates = self.gates
        gates.register(reads=self.restore.reads)
        gates.register(reads=self.snapshot_install.reads, timed=self.options.shares_store)
        gates.register(writes=self.failover.writes, wait=self.failover.wait)
        gates.register(writes=self.startup_check.writes, wait=self.startup_check.passed)
        gates.register(writes=self.clocks.writes, error=ClockUnsafe)
        gates.advise(writes=self.group_commit.trouble)
        return Health(self.name, self.links, self.group_commit, gates)

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the store holds, open the links and begin housekeeping. Raises what the store raises."""
        await self.store.open_collections(self.application.stored)
        await self.store.declare(shapes_of(self.application))
        await self.node_leases.take()
        await self.group_commit.open()
        self._own_at_first = self.group_commit.progress.vector.get(self.name, 0)
        await self.startup_check.open()
        await self.restore.open()
        await self.failover.open()
        await self.snapshot_install.open()
        if self.options.events_most:
            self.events.open()
            self._spawn(self.events.run(), "events")
            self._spawn(self.event_retention.run(), "retention of events")
        self._spawn(self.node_leases.run(), "leases")
        for peer in self.links:
            self._open_link(peer)
        self._spawn(self.startup_check.run(), "start-up position check")
        self._spawn(self._housekeeping.keep_store(), "housekeeping")
        self._spawn(self._housekeeping.cut_journal(), "truncation of the journal")
        self._spawn(self.snapshot_install.run(), "catching up from a snapshot")
        if self.options.shares_store:
            self._spawn(self.intake.ask_for_others(), "what other nodes brought")
        self._spawn(self.redeclaration.run(), "new declarations")
        self._spawn(self.restore.run(), "restore recovery")
        self._spawn(self.failover.run(), "another database")

    async def stop(self) -> None:
        """End everything that `start` began; the store stays open for whoever owns it."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await _ended(tasks)
        self.intake.close()
        await self.group_commit.close()

    async def change_members(self, to: Membership) -> None:
        """Follow a membership of a later epoch: open links to regions that came, end links to those that left.

        Raises ConfigError. Nobody waits for a region that has left; its entries stay, and are relayed.
        """
        self.members.change(to, own=self.name)
        peers = frozenset(to.regions) - {self.name}
        left = [peer for peer in self.links if peer not in peers]
        running = bool(self._tasks)
        for peer in left:
            del self.links[peer]
        for peer in sorted(peers - self.links.keys()):
            self.links[peer] = self._link(peer)
            if running:
                self._open_link(peer)
        for part in (self.startup_check, self.restore, self.failover, self.snapshot_install):
            part.members_changed(peers)
        self.node_leases.want([_link_to(peer) for peer in self.links])
        self._review_links()
        names = [name for peer in left for name in (_link_task(peer), _clock_task(peer)) if running]
        await _ended([self._tasks.pop(name) for name in names])
        for peer in left:
            self.clocks.offsets.forget(peer)

    def _open_link(self, peer: str) -> None:
        self._spawn(self.links[peer].run(self._review_links), _link_task(peer))
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

    async def write(self, write: Write, token: Mapping[str, int] | None = None) -> WriteReply:
        """Commit where the write belongs: here, or in the region that owns the documents.

        `token` is what the session has seen: in collections that are more than eventually consistent the
        write waits until it comes after that. Raises RequestErrors, TokenNotReached, RegionUnreachable,
        Indefinite, StoreUnwritable, ClockUnsafe, Overloaded.
        """
        return await self.writer.write(write, token)

    async def read(self, collection: str, key: str, options: ReadOptions = PLAIN_READ) -> Reading:
        """Read under the collection's consistency, or the one asked for.

        Raises TokenNotReached, TooStale, RegionUnreachable, InvalidOperation.
        """
        return await self.reader.read(collection, key, options)

    async def list_events(
        self, *, after: str, limit: int, where: Sequence[Condition] = ()
    ) -> Sequence[tuple[str, bytes]]:
        """(key, JSON text) of the deployment's events past a key, in causal order. Raises what the store raises."""
        return await self.event_retention.page(after=after, limit=limit, where=where)

    async def list(
        self, collection: str, wanted: ListOptions = FIRST_PAGE, options: ReadOptions = PLAIN_READ
    ) -> Listing:
        """A page of a collection as this region shows it. Raises what `read` raises."""
        return await self.reader.list(collection, wanted, options)

    async def siblings(self, collection: str, key: str) -> Sequence[Version]:
        """The concurrent versions of a document, if there are several."""
        return await self.reader.siblings(collection, key)

    async def shown(self, collection: str, key: str) -> bytes | None:
        """The document as JSON text, as this region shows it now."""
        return (await self.reader.read_here(collection, key)).value

    def changes(
        self, vector: Mapping[str, int], *, idle_s: float
    ) -> AsyncIterator[tuple[Entry, dict[str, int]] | None]:
        """Every entry past a cursor, see `Feed.changes`. Raises CursorExpired."""
        return self.feed.changes(vector, idle_s=idle_s)

    async def cursor(self, vector: Mapping[str, int] | None) -> dict[str, int]:
        """A cursor that `changes` can start from; without one, the oldest. Raises CursorExpired."""
        entered = self.gates.enter()
        found = await self.feed.oldest_cursor() if vector is None else dict(vector)
        await self.feed.check_cursor(found)
        self.gates.leave(entered)
        return found

    async def list_conflicts(
        self, wanted: AuditFilter, *, after: tuple[int, str] | None = None, limit: int = 100
    ) -> Sequence[AuditRow]:
        """Records of the audit, newest first."""
        return await self._conflicts.page(wanted, after=after, limit=limit)

    async def resolve(
        self,
        conflict_id: str,
        value: bytes,
        *,
        idempotency_key: str | None = None,
        token: Mapping[str, int] | None = None,
    ) -> WriteReply:
        """Write the value that the application chose. Raises NotFound, Conflict, and what `write` raises."""
        return await self._conflicts.resolve(conflict_id, value, idempotency_key=idempotency_key, token=token)

    async def refresh(self) -> dict[str, int]:
        """What the region has, with all that its other nodes have committed. Raises what the store raises."""
        await self.group_commit.progress.refresh()
        return self.vector

    # -- operators -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the region reports of itself, as plain JSON data."""
        return status_of(self)

    def health_of(self, check: Check) -> str | None:
        """Why the node is not live, ready, serving or reading; None when it is."""
        return self.health.of(check)

    def check_whole(self) -> None:
        """Raises Unavailable while reads are closed."""
        self.gates.enter()

    def count_invalid_trace(self) -> None:
        """A trace context was malformed, and dropped."""
        self.statistics.invalid_traces += 1

    async def claim(self, name: str) -> bool:
        """Lease a name to this node of the region; False while another node has it. Raises what the store raises."""
        return await self.node_leases.claim(name)

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

    async def digest(self) -> dict[str, Any]:
        """collection → how many documents, and a digest that is equal in regions with the same state."""
        return await self._verification().digest()

    async def verify(self) -> dict[str, Any]:
        """Compare this region's digests with every peer's, and name the documents that differ."""
        return await self._verification().compare()

    def _verification(self) -> Verification:
        return Verification(self.application.stored, self.links, self.digests, self.ask)

    async def parked(self) -> Sequence[Parked]:
        """Changes that could not be merged."""
        return await self.store.parked()

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good: nobody waits for it, or for what it alone held."""
        self.failover.forget(peer)
        self.startup_check.forget(peer)

    # -- peers -----------------------------------------------------------------------------------------

    async def ask(self, region: str, call: Call) -> Reply:
        """Ask one peer. Raises RegionUnreachable, Indefinite."""
        return await self._peers.call(region, call, timeout_s=self.options.peer_timeout_s)

    async def answer(self, call: Call) -> Reply:
        """Answer a peer."""
        match call:
            case WriteCall():
                return await self.writer.take(call.write, call.vector)
            case ReadCall():
                await self.waits.require(call.vector)
                reading = await self.reader.read_here(call.collection, call.key)
                return ReadReply(reading.value, reading.version, dict(reading.vector))
            case SnapshotCall():
                return await self.snapshot_install.page(call.place)
            case DigestCall():
                entered = self.gates.enter()
                digest = await self.digests.of(call.collection, call.bucket)
                self.gates.leave(entered)
                return digest
            case PingCall():
                return PingReply(self.name, self.now_ms(), self.application.fingerprint())
            case EntryCall():
                return EntryReply(await entry_digest(self.store, call.origin, call.seq))

    def refused(self, peer: str, error: ReplicationError) -> None:
        """What a peer sent was refused."""
        self.links[peer].refuse(error)

    def stream(self, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        """This region's journal for one peer, as frames of `replication.wire`."""
        return self._journal_sender.stream(request)

    # -- links -----------------------------------------------------------------------------------------

    @property
    def regions(self) -> tuple[str, ...]:
        """The members, this one among them."""
        return self.members.regions

    @property
    def peers(self) -> Collection[str]:
        """The other regions."""
        return self.links

    @property
    def vector(self) -> dict[str, int]:
        """What this region has."""
        return self.group_commit.progress.vector

    def deliver(self, encoded: Sequence[EncodedEntry], link: str) -> None:
        self.intake.deliver(encoded, link)

    async def backpressure(self, link: str, bytes_waiting: int) -> None:
        await self.intake.backpressure(link, bytes_waiting)

    def too_late(self, peer: str, past: dict[str, int]) -> None:
        if peer not in self.links:
            return  # it left while this was on its way
        self.snapshot_install.too_late(peer, past)

    def heard(self, peer: str, heartbeat: Heartbeat) -> None:
        if peer not in self.links:
            return
        self.freshness.heard(heartbeat, self.group_commit.progress.vector)
        self.startup_check.heard(peer, heartbeat.vector)
        self.restore.heard(peer, heartbeat.vector)
        announced = self.links[peer].status.advertised
        self._relays.post(relays.Heard(peer, announced, self.group_commit.progress.vector))
        if not self.links[peer].renewing:
            self.failover.heard(peer, heartbeat.vector)

    def _origins(self, peer: str) -> tuple[str, ...]:
        """The peer's own entries; and those of everyone out of reach, through every peer, for any one of
        them may be just as cut off: what comes twice is dropped on arrival.

        This region's own are asked for, everywhere, while peers hold some that it lost with its disk. Asked for
        at other times, each would come back from every peer. So are those that an origin has lost (`recovery.relays`).
        Of several nodes one pulls from a peer; the others only want to hear how far it is.
        """
        if not self.holds(peer) or self.snapshot_install.pulling:
            return ()
        wanted = {origin for relay, origin in self._relays.state.asked if relay == peer}
        if self.startup_check.recovering:
            wanted.add(self.name)
        wanted.update(other for other, link in self.links.items() if not link.status.connected)
        return (peer, *sorted(wanted - {peer}))

    def holds(self, peer: str) -> bool:
        """Whether it is this node of the region that pulls from `peer`."""
        return _link_to(peer) in self.node_leases.held

    def _review_links(self) -> None:
        for link in self.links.values():
            link.review()
        self.events.links_changed()

    # -- another database ------------------------------------------------------------------------------

    def _history_changed(self, history: str, lossy: bool = False) -> None:
        self.failover.history_changed(history, lossy=lossy)
        if self.failover.pending:
            self.gates.closing(reads=False)

    async def _rewind(self) -> int:
        # Tables that were made last may be missing, too.
        await self.store.open_collections([*self.application.stored, KEPT_ASIDE])
        clock = await self.progress.rewind()
        self._own_at_first = self.group_commit.progress.vector.get(self.name, 0)
        self.freshness.forget()
        self.startup_check.rewound()
        return stamp_ms(Stamp(clock))

    async def _forked_entry(self) -> str:
        async def ask(peer: str, seq: int) -> bytes | None:
            reply = await self.ask(peer, EntryCall(self.name, seq))
            return reply.digest if isinstance(reply, EntryReply) else None

        held = {
            peer: link.status.advertised.get(self.name, 0)
            for peer, link in self.links.items()
            if link.status.connected
        }
        return await forked_entry(self.store, self.name, self._own_at_first, held, ask)

    def _trust(self, history: str) -> None:
        self.timeline.trust(history)
        self.committed.notify()

    # -- commits ---------------------------------------------------------------------------------------

    def _identity(self) -> Identity:
        return Identity(self.name, self.regions, self.clocks.uncertainty_ms, self.options.document_bytes)

    def _resolver(self, schema: CollectionSchema) -> Resolver | None:
        function = schema.policy.resolver
        return (
            None if function is None else guarded(function, partial(plain_text, schema), self.options.guard)
        )

    def _admit(self, write: Write, stored: Stored) -> None:
        self.writer.admit(write, stored)

    def _after_commit(self, batch: Batch) -> None:
        self.statistics.committed(batch, self.name, self.now_ms())

    def _after_move(self, before: dict[str, int], vector: dict[str, int]) -> None:
        self.freshness.moved(vector)
        self.committed.notify()


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _link_task(peer: str) -> str:
    return f"link to {peer}"


def _clock_task(peer: str) -> str:
    return f"clock of {peer}"


def _link_to(peer: str) -> str:
    """The name of a lease."""
    return f"link {peer}"
