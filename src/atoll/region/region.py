"""A region: one database, its commit group commit, its links to the peers, and all that serves around them.

The same object serves inside an application's process (`atoll.open`), behind HTTP (`atoll.http`) and in
the simulator; clock, randomness, store and network are given to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from atoll.documents.entry import Entry
from atoll.documents.mutation import Write
from atoll.documents.register import Version
from atoll.errors import ReplicationError
from atoll.membership.members import Membership
from atoll.protocol import port
from atoll.region.divergence import entry_digest
from atoll.region.reading import FIRST_PAGE, PLAIN_READ, Listing, ListOptions, Reading, ReadOptions
from atoll.region.shapes import shapes_of
from atoll.region.site import Site
from atoll.region.status import Check, RegionStatus, health_of, status_of
from atoll.region.verification import Digests, Verification, Verifier
from atoll.region.wiring import Parts, link_lease
from atoll.replication.messages import (
    Call,
    DigestCall,
    EntryCall,
    EntryReply,
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
from atoll.schema.application import Application
from atoll.schema.bounds import bounds_of
from atoll.store.port import AuditFilter, AuditRow, Condition, Parked, Store, StoreStatistics

logger = logging.getLogger("atoll.region")


class Region(Parts):
    """Create it, `start` it inside a running event loop, `stop` it."""

    def __init__(self, site: Site, regions: Sequence[str], application: Application, store: Store) -> None:
        super().__init__(site, regions, application, store)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the store holds, open the links and begin background work. Raises what the store raises."""
        await self.store.open_collections(self.application.stored)
        await self.store.declare(shapes_of(self.application))
        for part in self.background:
            if part.open is not None:
                await part.open()
        for peer in self.links:
            self._open_link(peer)
        for part in self.background:
            self._spawn(part.run(), part.name)

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
        bounds = bounds_of(self.options.document_bytes, len(to.regions))
        self.members.change(to, own=self.name)
        self.bounds = bounds
        peers = frozenset(to.regions) - {self.name}
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
        self.node_leases.want([link_lease(peer) for peer in self.links])
        self.review_links()
        names = [name for peer in left for name in (_link_task(peer), _clock_task(peer)) if running]
        await _ended([self._tasks.pop(name) for name in names])
        for peer in left:
            self.clocks.offsets.forget(peer)

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
    ) -> AsyncGenerator[tuple[Entry, dict[str, int]] | None, None]:
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
        """Records of the audit, newest first. A page may end early: see `store.pages`."""
        return await self.conflicts.page(wanted, after=after, limit=limit)

    async def resolve(
        self,
        conflict_id: str,
        value: bytes,
        *,
        idempotency_key: str | None = None,
        token: Mapping[str, int] | None = None,
    ) -> WriteReply:
        """Write the value that the application chose. Raises NotFound, Conflict, and what `write` raises."""
        return await self.conflicts.resolve(conflict_id, value, idempotency_key=idempotency_key, token=token)

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
        """The other regions."""
        return self.links

    # -- operators -------------------------------------------------------------------------------------

    def status(self) -> RegionStatus:
        """What the region reports of itself."""
        return status_of(self)

    def health_of(self, check: Check) -> str | None:
        """Why the node is not live, ready, serving or reading; None when it is."""
        return health_of(self, check)

    def check_whole(self) -> None:
        """Raises Unavailable while reads are closed."""
        self.gates.enter()

    def check_token(self, token: Mapping[str, int]) -> None:
        """Raises InvalidToken for a session's token that names lost entries."""
        self.lost.check(token)

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

    async def digest(self) -> Digests:
        """Of each collection: how many documents, and a digest that is equal in regions with the same state."""
        return await self._verifier().digest()

    async def verify(self) -> Verification:
        """Compare this region's digests with every peer's, and name the documents that differ."""
        return await self._verifier().compare()

    def _verifier(self) -> Verifier:
        return Verifier(self.application.stored, self.links, self.digests, self.site)

    async def parked(self) -> Sequence[Parked]:
        """Changes that could not be merged."""
        return await self.store.parked()

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good: nobody waits for it, or for what it alone held."""
        self.failover.post(port.Forgotten(peer))
        self.startup_check.post(port.Forgotten(peer))

    # -- peers -----------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Reply:
        """Answer a peer."""
        match call:
            case WriteCall():
                return await self.writer.take(call.write, call.vector)
            case ReadCall():
                await self.waits.require(call.vector)
                if self.ownership.concerns_reads(call.collection):
                    await self.gates.ordered()
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
        return self.journal_sender.stream(request)


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _link_task(peer: str) -> str:
    return f"link to {peer}"


def _clock_task(peer: str) -> str:
    return f"clock of {peer}"
