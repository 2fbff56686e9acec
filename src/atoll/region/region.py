"""A region: one database, its commit door, its links to the peers, and the reads that wait for them.

The same object serves inside an application's process (`atoll.open`), behind HTTP (`atoll.server`) and in
the simulator; clock, randomness, store and network are given to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from atoll.causality import vector as vectors
from atoll.causality.clock import HybridLogicalClock, stamp_ms
from atoll.causality.uncertainty import OffsetEstimator
from atoll.conflicts.guard import guarded
from atoll.conflicts.strategies import Resolver
from atoll.core import document as documents
from atoll.core.batch import Batch, Identity, check_batch
from atoll.core.entry import Entry, Framed, decode_frames
from atoll.core.mutation import Write, fields_of
from atoll.core.rules import Rules, plain_text
from atoll.errors import (
    AtollError,
    ClockUnsafe,
    CursorExpired,
    InvalidOperation,
    RegionUnreachable,
    TokenNotReached,
    TooStale,
    Unavailable,
)
from atoll.region.adoption import Adoption
from atoll.region.catching_up import CatchingUp
from atoll.region.door import Door
from atoll.region.escrow import Escrow
from atoll.region.freshness import Freshness
from atoll.region.lineage import entry_digest, strange_entry
from atoll.region.options import DEFAULT_OPTIONS, RegionOptions
from atoll.region.ownership import Ownership, Stored
from atoll.region.peers import (
    Call,
    DigestCall,
    DigestReply,
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
from atoll.region.reading import PLAIN_READ, Reading, ReadOptions
from atoll.region.reintroduction import Reintroduction
from atoll.region.shapes import shapes_of
from atoll.region.signal import Signal
from atoll.region.statistics import Statistics
from atoll.region.succession import Succession
from atoll.region.tenure import Tenure
from atoll.region.truncation import Truncation
from atoll.replication import source
from atoll.replication.link import Link
from atoll.replication.wire import FrameWriter, Heartbeat
from atoll.schema.application import Application, CollectionSchema
from atoll.store.port import Store

DIGEST_BUCKETS = 256
_LOOKED_AFTER_S = 10.0
"""How often a region looks whether its documents still are all as it declares them."""
_SHARE = 10
"""Of the time, one part at most goes into bringing documents under new declarations while others undo it."""

logger = logging.getLogger("atoll.region")


class Region:
    """Create it, `start` it inside a running event loop, `stop` it."""

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
        self.regions = tuple(sorted(regions))
        self.application = application
        self.store = store
        self.options = options
        self.statistics = Statistics()
        self.freshness = Freshness(name)
        self.offsets = OffsetEstimator(max_offset_ms=options.max_clock_offset_ms)
        self.committed = Signal()
        self.draining = False
        self._heard = Signal()
        self._introduced = len(regions) == 1
        self._broken: str | None = None
        self._own_elsewhere = 0
        self._recovering = False
        self.now_ms = physical_ms
        self._peers = peers
        self._kernel_uncertainty_ms = kernel_uncertainty_ms
        self._uncertainty_ms = options.max_clock_offset_ms
        self._clock_off_ms = 0
        self._wall_minus_loop_ms: int | None = None
        self.rules: dict[str, Rules] = {
            name: Rules(schema, self._resolver(schema)) for name, schema in application.collections.items()
        }
        self.clock = HybridLogicalClock(physical_ms, 0, options.max_clock_offset_ms)
        self.ownership = Ownership(self.regions, self.rules)
        self.door = Door(
            store,
            self.rules,
            self.clock,
            self._identity,
            physical_ms,
            admit=self._admit,
            turned=self._turned,
            options=options.door,
        )
        self.door.listen(self._after_commit)
        self.door.follow(self._after_move)
        self.adoption = Adoption(application, store, self.door, lambda: f"{random.getrandbits(48):x}")
        self._writer = FrameWriter(link_key)
        self.links = {
            peer: Link(
                name,
                peer,
                self,
                peers,
                link_key,
                origins=self._origins,
                regions=frozenset(self.regions),
                now_ms=physical_ms,
                random=random,
                options=options.link,
            )
            for peer in self.regions
            if peer != name
        }
        self._escrowed = frozenset(
            name
            for name, rules in self.rules.items()
            if any(lattice.kind == "bounded_counter" for lattice in rules.lattices.values())
        )
        self.tenure = Tenure(
            store, [_link_to(peer) for peer in self.links], self._review_links, lease_s=options.lease_s
        )
        self.escrow = Escrow(
            name,
            self._holders,
            self._ask,
            self.door.covered,
            lambda: asyncio.get_running_loop().time(),
            timeout_s=options.escrow_timeout_s,
        )
        self._own_at_first = 0
        """Its own position when it was restored, or went back: what came since is the peers' own account."""
        self.reintroduction = Reintroduction(
            name, self.links, store, self.door.covered, strange=self._strange_entry
        )
        self.succession = Succession(
            name,
            self.links,
            store,
            back=self._go_back,
            anew=self._renew_links,
            covered=self.door.covered,
            strange=self._strange_entry,
            trust=self._trust,
            now_ms=physical_ms,
            patience_s=options.introduction_s,
        )
        self.catching_up = CatchingUp(
            name,
            self.rules,
            self.links,
            store,
            self.door,
            ask=lambda peer, call, timeout_s: peers.call(peer, call, timeout_s=timeout_s),
            claim=self.tenure.claim,
            release=self.tenure.release,
            review=self._review_links,
            now_ms=physical_ms,
            options=options,
        )
        self.truncation = Truncation(self.regions, self.links, store, physical_ms, options)
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the store holds, open the links and begin housekeeping. Raises what the store raises."""
        await self.store.open_collections(self.application.collections)
        await self.store.declare(shapes_of(self.application))
        await self.tenure.take()
        await self.door.open()
        self._own_at_first = self.door.vector.get(self.name, 0)
        await self.reintroduction.open()
        await self.succession.open()
        await self.catching_up.open()
        self._spawn(self.tenure.run(), "leases")
        for link in self.links.values():
            self._spawn(link.run(self._review_links), f"link to {link.status.peer}")
            self._spawn(self._compare_clocks(link.status.peer), f"clock of {link.status.peer}")
        self._spawn(self._introduction(), "introduction")
        self._spawn(self._watch_for_own(), "watch for lost entries")
        self._spawn(self._housekeeping(), "housekeeping")
        self._spawn(self._truncate(), "truncation of the journal")
        self._spawn(self.catching_up.run(), "catching up from a snapshot")
        self._spawn(self._adopt(), "new declarations")
        self._spawn(self.reintroduction.run(), "return from a backup")
        self._spawn(self.succession.run(), "another database")

    async def stop(self) -> None:
        """End everything that `start` began; the store stays open for whoever owns it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.door.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"{self.name}: {name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Background work never ends by itself: a defect that ends it must not pass unseen."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s ended", task.get_name(), exc_info=task.exception())
            self._broken = f"{task.get_name()} ended: {task.exception()!r}"

    # -- writing ---------------------------------------------------------------------------------------

    async def write(self, write: Write, token: Mapping[str, int] | None = None) -> WriteReply:
        """Commit where the write belongs: here, or in the region that owns the documents.

        `token` is what the session has seen: in collections that are more than eventually consistent the
        write waits until it comes after that. Raises RequestErrors, TokenNotReached, RegionUnreachable,
        Indefinite, StoreUnwritable, ClockUnsafe, Overloaded.
        """
        check_batch(write, most=self.options.writes_per_batch)
        if not self.ownership.concerns(write):
            return await self._write_here(write, token)
        owner = await self._owner(write)
        if owner is None:
            # What is waited for here may bring the document, and with it say whose it is.
            await self._catch_up(write, token)
            owner = await self._owner(write)
        if owner is None or owner == self.name:
            return await self._write_here(write, token)
        self.statistics.forwarded += 1
        return await self._ask(owner, write, self.options.peer_timeout_s, token)

    async def _owner(self, write: Write) -> str | None:
        rows = {address: await self.store.get(*address) for address in self.ownership.concerned(write)}
        return self.ownership.of_write(write, rows.get)

    def check_whole(self) -> None:
        """Raises Unavailable while documents here are not what the region's vector says."""
        self.reintroduction.check()
        self.catching_up.check()

    def _admit(self, write: Write, stored: Stored) -> None:
        """At the write's turn: what came in between may have said whose the document is."""
        self.catching_up.check()
        owner = self.ownership.of_write(write, stored)
        if owner not in (None, self.name):
            raise RegionUnreachable(
                f"{owner} has just come to own this document; send the write again", region=owner
            )

    async def _catch_up(self, write: Write, token: Mapping[str, int] | None) -> None:
        if token and not vectors.descends(self.door.vector, token) and self._ordered(write):
            await self.require(token)
        if not self._introduced:
            await self._introduction()

    async def _write_here(self, write: Write, token: Mapping[str, int] | None) -> WriteReply:
        self.check_whole()
        turns = self.succession.turns
        await self.succession.passed()
        try:
            return await self._commit_here(write, token)
        except Unavailable:
            if self.succession.turns == turns:
                raise
        # It was this write that found another database there, and surely did nothing.
        await self.succession.passed()
        return await self._commit_here(write, token)

    async def _commit_here(self, write: Write, token: Mapping[str, int] | None) -> WriteReply:
        if token or not self._introduced:
            await self._catch_up(write, token)
        if self._lacks_own():
            await self.door.refresh()  # another node of this region may have written them a moment ago
        if self._lacks_own():
            raise Unavailable(self._lacking())
        if self._clock_off_ms > 0:
            raise ClockUnsafe(
                f"the clock of {self.name} is {self._clock_off_ms} ms outside what its peers can agree on; "
                "it takes no writes until it is set right"
            )
        lead_ms = self.clock.lead_ms()
        if lead_ms > self.options.max_clock_offset_ms:
            raise ClockUnsafe(
                f"the clock of {self.name} was set back, and its stamps run {lead_ms} ms ahead of it: no peer would "
                "take its writes before then; write in another region",
                lead_ms=lead_ms,
            )
        if any(mutation.collection in self._escrowed for mutation in write.mutations):
            receipt = await self.escrow.write(lambda: self.door.write(write))
        else:
            receipt = await self.door.write(write)
        return WriteReply(receipt, self.vector)

    def _ordered(self, write: Write) -> bool:
        """Whether the write must come after what its session has seen."""
        policies = (self.rules[mutation.collection].schema.policy for mutation in write.mutations)
        return any(policy.consistency != "eventual" and policy.fallback is None for policy in policies)

    @property
    def knows_its_own(self) -> bool:
        """Whether it has heard its peers, and holds every entry of its own that they have."""
        return self._introduced and self._own_elsewhere <= self.door.vector.get(self.name, 0)

    async def _introduction(self) -> None:
        """Before its first write a region hears its peers: its disk may be lost, or an old copy, and then they
        know entries of its own that it must not number anew.
        """
        if self.links:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.introduction_s):
                    while any(link.status.heard_ms == 0 for link in self.links.values()):
                        await self._heard.wait()
        self._introduced = True

    async def _ask(
        self, region: str, write: Write, timeout_s: float, token: Mapping[str, int] | None = None
    ) -> WriteReply:
        try:
            reply = await self._peers.call(region, WriteCall(write, dict(token or {})), timeout_s=timeout_s)
        except RegionUnreachable as error:
            raise RegionUnreachable(
                f"{region} must take this write and cannot be reached from {self.name}: {error.message}",
                region=region,
            ) from error
        if not isinstance(reply, WriteReply):
            raise AtollError(f"{region} answered a write with {type(reply).__name__}")
        return reply

    async def ask(self, region: str, call: Call) -> Reply:
        """Ask one peer. Raises RegionUnreachable, Indefinite."""
        return await self._peers.call(region, call, timeout_s=self.options.peer_timeout_s)

    async def _holders(self, collection: str, key: str, field: str) -> dict[str, int]:
        row = await self.store.get(collection, key)
        if row is None:
            return {}
        rules = self.rules[collection]
        state = documents.decode_row(rules, row).lattices.get(field)
        lattice = rules.lattices[field]
        if state is None:
            return {}
        return {peer: lattice.rights(state, peer) for peer in self.links}  # type: ignore[attr-defined]

    # -- reading ---------------------------------------------------------------------------------------

    async def read_here(self, collection: str, key: str) -> Reading:
        """What this region has, and what it had seen at that very moment."""
        row, vector = await self.store.read(collection, key)
        self.catching_up.check()
        if row is None or row.value is None:
            return Reading(None, "", self.name, vector)
        return Reading(row.value, documents.version_tag(row), self.name, vector)

    async def read(self, collection: str, key: str, options: ReadOptions = PLAIN_READ) -> Reading:
        """Read under the collection's consistency, or the one asked for.

        Raises TokenNotReached, TooStale, RegionUnreachable, InvalidOperation.
        """
        self.statistics.reads += 1
        policy = self.rules[collection].schema.policy
        level = options.consistency or policy.consistency
        if level == "strong":
            return await self._read_strong(collection, key, options)
        if level != "eventual" and options.token and not vectors.descends(self.door.vector, options.token):
            elsewhere = await self._reach(collection, key, options)
            if elsewhere is not None:
                return elsewhere
        degraded = await self.fresh_enough(collection, options)
        reading = await self.read_here(collection, key)
        if level != "eventual" and options.token and not vectors.descends(reading.vector, options.token):
            # A database that lost commits has just taken the other's place.
            await self.door.go_back()
            elsewhere = await self._reach(collection, key, options)
            reading = elsewhere or await self.read_here(collection, key)
        return reading if degraded is None else reading._replace(degraded=degraded)

    async def wait_for(self, token: Mapping[str, int], max_wait_s: float | None = None) -> bool:
        """Wait until this region has seen `token`; False when it did not in time."""
        if vectors.descends(self.door.vector, token):
            return True
        self.statistics.token_waits += 1
        wait_s = (
            self.options.max_wait_s if max_wait_s is None else min(max_wait_s, self.options.longest_wait_s)
        )
        try:
            async with asyncio.timeout(wait_s):
                await self.door.covered(token)
        except TimeoutError:
            return False
        self.catching_up.check()  # a snapshot that is taken over moves the vector before the documents
        return True

    async def _reach(self, collection: str, key: str, options: ReadOptions) -> Reading | None:
        """Wait for the session's token here, or read in a region that has it."""
        token = dict(options.token or {})
        if await self.wait_for(token, options.max_wait_s):
            return None
        for peer, link in sorted(self.links.items()):
            if link.status.connected and vectors.descends(link.status.advertised, token):
                with contextlib.suppress(Unavailable):
                    return await self._read_at(peer, ReadCall(collection, key, token))
        raise self._not_reached(token)

    async def require(self, token: Mapping[str, int], max_wait_s: float | None = None) -> None:
        """Wait until this region has seen `token`. Raises TokenNotReached."""
        if not await self.wait_for(token, max_wait_s):
            raise self._not_reached(token)

    def _not_reached(self, token: Mapping[str, int]) -> TokenNotReached:
        missing = vectors.missing(self.door.vector, token)
        return TokenNotReached(
            f"{self.name} has not yet seen what this session has: "
            + ", ".join(f"{origin} up to {seq}" for origin, seq in sorted(missing.items()))
            + "; try again, or go on without the session's token",
            missing=missing,
        )

    async def _read_at(self, peer: str, call: ReadCall) -> Reading:
        self.statistics.forwarded += 1
        reply = await self._peers.call(peer, call, timeout_s=self.options.peer_timeout_s)
        if not isinstance(reply, ReadReply):
            raise AtollError(f"{peer} answered a read with {type(reply).__name__}")
        return Reading(reply.value, reply.version, peer, reply.vector)

    async def _read_strong(self, collection: str, key: str, options: ReadOptions) -> Reading:
        policy = self.rules[collection].schema.policy
        if policy.consistency != "strong":
            raise InvalidOperation(
                f"collection {collection!r} is declared {policy.consistency}: its writes have no global order that a "
                'strong read could see; declare it with consistency="strong"',
                collection=collection,
            )
        if policy.fallback is not None:
            weaker = await self.read(collection, key, options._replace(consistency="causal"))
            return weaker._replace(degraded=policy.fallback)
        owner = self.ownership.of_document(collection, key, await self.store.get(collection, key))
        if owner is None:
            return await self._read_somewhere(collection, key)
        if owner == self.name:
            return await self.read_here(collection, key)
        try:
            return await self._read_at(owner, ReadCall(collection, key, {}))
        except RegionUnreachable as error:
            raise RegionUnreachable(
                f"{owner} orders the writes of {collection}/{key} and cannot be reached: {error.message}",
                region=owner,
            ) from error

    async def _read_somewhere(self, collection: str, key: str) -> Reading:
        """Only the document itself says whose it is, and it is not here: it is absent if it is nowhere."""
        calls = (self._read_at(peer, ReadCall(collection, key, {})) for peer in self.links)
        for reading in await asyncio.gather(*calls):
            if reading.value is not None:
                return reading
        return await self.read_here(collection, key)

    async def fresh_enough(self, collection: str, options: ReadOptions) -> str | None:
        """Meet the bound on staleness that is asked for or declared, if any; why it is not met where the
        collection accepts that. Raises TooStale, and InvalidOperation where no bound is said.
        """
        policy = self.rules[collection].schema.policy
        bound = options.max_staleness_s
        if bound is None and (options.consistency or policy.consistency) == "bounded":
            bound = policy.max_staleness_s
            if bound is None:
                raise InvalidOperation(
                    f"consistency=bounded needs max_staleness, the bound in seconds: {collection!r} declares none"
                )
        if bound is None:
            return None
        return await self._within(bound, options, fallback=policy.fallback == "eventual")

    async def _within(self, bound_s: float, options: ReadOptions, *, fallback: bool) -> str | None:
        """Wait until nothing here is staler than the bound."""
        wait_s = self.options.max_wait_s if options.max_wait_s is None else options.max_wait_s
        deadline = asyncio.get_running_loop().time() + min(wait_s, self.options.longest_wait_s)
        while True:
            lag_s = self.staleness_s()
            if lag_s <= bound_s:
                self.catching_up.check()
                return None
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, self.options.heartbeat_s)):
                    await self.committed.wait()
        if fallback:
            return f"stale by {lag_s:.1f} s"
        raise TooStale(
            f"{self.name} may lag by {lag_s:.1f} s, more than the {bound_s} s asked for; try again, or another region",
            lag_s=round(lag_s, 3) if lag_s != float("inf") else None,
        )

    def staleness_s(self) -> float:
        """How far this region may be behind the slowest of the others; infinite before all were heard."""
        now_ms = self.now_ms()
        lags = [self.freshness.lag_s(peer, now_ms) for peer in self.links]
        return max((float("inf") if lag is None else lag for lag in lags), default=0.0)

    # -- peers -----------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Reply:
        """Answer a peer. A forwarded write is never forwarded again."""
        match call:
            case WriteCall():
                check_batch(call.write, most=self.options.writes_per_batch)
                self._check_declared(call.write)
                owner = await self._owner(call.write)
                if owner not in (None, self.name):
                    raise RegionUnreachable(
                        f"{self.name} believes that {owner} owns this document", owner=owner
                    )
                return await self._write_here(call.write, call.vector)
            case ReadCall():
                self.check_whole()
                await self.require(call.vector)
                reading = await self.read_here(call.collection, call.key)
                return ReadReply(reading.value, reading.version, dict(reading.vector))
            case SnapshotCall():
                return await self.catching_up.page(call.place)
            case DigestCall():
                self.catching_up.check()
                return await self.digest(call.collection, call.bucket)
            case PingCall():
                return PingReply(self.name, self.now_ms(), self.application.fingerprint())
            case EntryCall():
                return EntryReply(await entry_digest(self.store, call.origin, call.seq))

    def _check_declared(self, write: Write) -> None:
        """Raises Unavailable for what only the newer declarations of a peer know: half of it would be lost here."""
        for mutation in write.mutations:
            rules = self.rules.get(mutation.collection)
            if rules is None or fields_of(mutation) - rules.known:
                raise Unavailable(
                    f"{self.name} orders the writes of {mutation.collection}/{mutation.key} and still runs other "
                    "declarations, which lack some of what is written; try again after its upgrade",
                    region=self.name,
                )

    async def digest(self, collection: str, bucket: int | None = None) -> DigestReply:
        """Of each bucket of keys, or of each document in one bucket; tombstones count."""
        rules = self.rules[self.application.collection(collection).name]
        count, after = 0, None
        found: dict[str, bytes] = {}
        while rows := await self.store.scan_all(collection, after=after):
            after = rows[-1][0]
            await asyncio.sleep(0)  # others have their turn between two pages
            for key, row in rows:
                number = documents.bucket_of(key, DIGEST_BUCKETS)
                count += row.value is not None
                if bucket is None:
                    before = found.get(str(number), bytes(16))
                    one = documents.digest(rules, key, documents.decode_row(rules, row))
                    found[str(number)] = bytes(a ^ b for a, b in zip(before, one, strict=True))
                elif number == bucket:
                    found[key] = documents.digest(rules, key, documents.decode_row(rules, row))
        return DigestReply(count, found, await self.store.positions())

    async def stream(self, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        """This region's journal for one peer, as frames of `replication.wire`.

        A peer that asks with fewer entries of its own than wait here has lost its disk. It goes by what this
        region has stored, and may number others as these: so they must not be applied any more.
        """
        if request.region in self.links:
            self.links[request.region].reachable()
            if request.anew:
                await self.links[request.region].restart()
            await self._disown(request.region, request.vector.get(request.region, 0))
        turns = self.succession.turns
        pieces = source.stream(
            self.store,
            request,
            self.committed,
            self._heartbeat,
            self._writer,
            heartbeat_s=self.options.heartbeat_s,
        )
        async for piece in pieces:
            if turns != self.succession.turns:
                return  # the journal that was read is another database's
            yield piece

    async def _disown(self, peer: str, past: int) -> None:
        while True:
            if self.door.disown(peer, past):
                self.links[peer].reopen()  # at once, for this call may be cut short
            if not self.door.taking(peer, past):
                return
            await self.door.turn_over()  # then its entries are stored, or wait again

    @property
    def vector(self) -> dict[str, int]:
        """What this region has."""
        return self.door.vector

    def deliver(self, framed: list[Framed], link: str) -> None:
        self.door.deliver(framed, link)

    async def room(self, link: str, bytes_waiting: int) -> None:
        await self.door.room(link, bytes_waiting)

    def too_late(self, peer: str, past: dict[str, int]) -> None:
        self.catching_up.too_late(peer, past)

    def heard(self, peer: str, heartbeat: Heartbeat) -> None:
        self.freshness.heard(heartbeat, self.door.vector)
        self._own_elsewhere = max(self._own_elsewhere, heartbeat.vector.get(self.name, 0))
        self._heard.notify()
        self.reintroduction.heard(peer, heartbeat.vector)
        if not self.links[peer].renewing:
            self.succession.heard(peer, heartbeat.vector)

    # -- another database ------------------------------------------------------------------------------

    def _turned(self, history: str, lossy: bool) -> None:
        self.succession.turned(history, lossy=lossy)

    async def _go_back(self) -> int:
        clock = await self.door.go_back()
        self._own_at_first = self.door.vector.get(self.name, 0)
        self.freshness.forget()
        self._own_elsewhere = 0  # every peer is heard anew
        return stamp_ms(clock)

    async def _strange_entry(self) -> str:
        async def ask(peer: str, seq: int) -> bytes | None:
            reply = await self.ask(peer, EntryCall(self.name, seq))
            return reply.digest if isinstance(reply, EntryReply) else None

        held = {
            peer: link.status.advertised.get(self.name, 0)
            for peer, link in self.links.items()
            if link.status.connected
        }
        return await strange_entry(self.store, self.name, self._own_at_first, held, ask)

    def _renew_links(self) -> None:
        for link in self.links.values():
            link.renew()

    def _trust(self, history: str) -> int:
        self.door.trust(history)
        self.committed.notify()
        return self.door.vector.get(self.name, 0)

    # -- links -----------------------------------------------------------------------------------------

    async def _heartbeat(self) -> Heartbeat:
        # The moment comes first: whatever any node had committed by then is in the vector.
        now_ms, as_of = self.now_ms(), self.freshness.as_of()
        return Heartbeat(self.name, now_ms, await self.store.positions(), as_of)

    def _origins(self, peer: str) -> tuple[str, ...]:
        """The peer's own entries; and those of everyone out of reach, through every peer, for any one of
        them may be just as cut off: what comes twice is dropped on arrival.

        This region's own are asked for, everywhere, while peers hold some that it lost with its disk. Asked for
        at other times, each would come back from every peer. Of several nodes one pulls from a peer; the others
        only want to hear how far it is.
        """
        if not self.holds(peer) or self.catching_up.pulling:
            return ()
        own = [self.name] if self._recovering else []
        down = [other for other, link in self.links.items() if other != peer and not link.status.connected]
        return (peer, *own, *down)

    def holds(self, peer: str) -> bool:
        """Whether it is this node of the region that pulls from `peer`."""
        return _link_to(peer) in self.tenure.held

    async def _watch_for_own(self) -> None:
        """Ask everywhere for this region's own entries, while peers hold some that it has lost."""
        while True:
            await self._heard.wait()
            if self._lacks_own() != self._recovering:
                with contextlib.suppress(AtollError):
                    await (
                        self.door.refresh()
                    )  # another node of this region may have written them a moment ago
                if self._lacks_own() != self._recovering:
                    self._recovering = not self._recovering
                    self._review_links()

    def _lacks_own(self) -> bool:
        return self._own_elsewhere > self.door.vector.get(self.name, 0)

    def _review_links(self) -> None:
        for link in self.links.values():
            link.review()

    # -- change feed -----------------------------------------------------------------------------------

    async def changes(
        self, vector: Mapping[str, int], *, idle_s: float
    ) -> AsyncIterator[tuple[Entry, dict[str, int]] | None]:
        """Every entry past `vector`, in this region's commit order, each with the vector after it.

        Because the cursor is a version vector it can be taken up in any region without missing anything.
        Yields None when nothing happened for `idle_s` seconds. Raises CursorExpired where the journal does not
        hold what comes next.
        """
        seen = dict(vector)
        known, taken_up = -1, self.succession.taken_up
        while True:
            count, here = self.committed.count, self.door.vector
            if known != self.succession.turns:
                known = self.succession.turns
                after_id = await self.store.journal_start(seen, self.regions)
            numbered = await self.store.journal(after_id, limit=16)
            if known != self.succession.turns:
                continue  # the journal is another database's
            if taken_up != self.succession.taken_up:
                # What was shown beyond is lost, and its numbers are given out again.
                taken_up = self.succession.taken_up
                seen[self.name] = min(seen.get(self.name, 0), self.succession.kept)
                known = -1
                continue
            for id_, segment in numbered:
                after_id = id_
                if segment.last_seq <= seen.get(segment.origin, 0):
                    continue
                for framed in decode_frames(segment.body):
                    if framed.entry.seq > seen.get(segment.origin, 0):
                        self._check_follows(seen, framed.entry.context)
                        seen[segment.origin] = framed.entry.seq
                        yield framed.entry, dict(seen)
            if numbered or count != self.committed.count:
                continue
            self._check_follows(seen, here)
            try:
                async with asyncio.timeout(idle_s):  # before 3.12 wait_for can swallow a cancellation
                    await self.committed.wait()
            except TimeoutError:
                yield None

    async def check_cursor(self, vector: Mapping[str, int]) -> None:
        """Raises CursorExpired where `changes` would, on its first entries."""
        nexts = {o: vector.get(o, 0) + 1 for o in vectors.missing(vector, self.door.vector)}
        gone = {o: seq for o, seq in nexts.items() if await self.store.segment(o, seq) is None}
        if gone:
            raise self._expired(gone)

    async def oldest_cursor(self) -> dict[str, int]:
        """Just before the oldest change of each origin that the journal holds."""
        found: dict[str, int] = {}
        for origin, newest in sorted(self.door.vector.items()):
            first, past = 1, newest + 1  # the first entry that is kept lies in between, or there is none
            while first < past and await self.store.segment(origin, first) is None:
                middle = (first + past) // 2
                if await self.store.segment(origin, middle) is None:
                    first = middle + 1
                else:
                    past = middle
                    if middle == first:
                        break
            if first > 1:
                found[origin] = first - 1
        return found

    def _check_follows(self, seen: Mapping[str, int], context: Mapping[str, int]) -> None:
        """In commit order, whatever comes has its past before it, unless that is not in the journal."""
        if not vectors.descends(seen, context):
            gone = vectors.missing(seen, context)
            raise self._expired({origin: seen.get(origin, 0) + 1 for origin in gone})

    def _expired(self, gone: Mapping[str, int]) -> CursorExpired:
        return CursorExpired(
            f"{self.name} no longer has all changes since this cursor in its journal; follow from cursor=now, then "
            "read the collections again, and take up what the feed brings",
            gone=dict(sorted(gone.items())),
        )

    # -- state -----------------------------------------------------------------------------------------

    @property
    def caught_up(self) -> bool:
        """Whether each peer that can be reached has been heard and nothing it had then is missing."""
        statuses = [link.status for link in self.links.values()]
        reachable = [status for status in statuses if status.connected]
        return (
            not self.reintroduction.pending
            and not self.catching_up.pending
            and all(status.since_ms for status in statuses)
            and all(vectors.descends(self.vector, {s.peer: s.advertised.get(s.peer, 0)}) for s in reachable)
            and (
                self.vector.get(self.name, 0)
                >= max((s.advertised.get(self.name, 0) for s in reachable), default=0)
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
        if self.reintroduction.pending:
            return self.reintroduction.reason
        if self.catching_up.pending:
            return self.catching_up.reason
        return self._broken

    @property
    def writes_nothing(self) -> str | None:
        """Why writes are refused here, or have to wait; reads go on."""
        if self.succession.pending:
            return self.succession.reason
        if not self._introduced:
            unheard = sorted(peer for peer, link in self.links.items() if link.status.heard_ms == 0)
            return f"{self.name} has just started and has not yet heard {', '.join(unheard)}"
        if self._recovering and self._lacks_own():
            return self._lacking()
        if self.door.store_error is not None:
            return self.door.store_error.message
        if self._clock_off_ms > 0:
            return f"the clock is {self._clock_off_ms} ms outside what the peers agree on"
        return None

    def _lacking(self) -> str:
        return (
            f"{self.name} has lost entries that its peers hold, up to {self._own_elsewhere}; "
            "it takes no writes until it has them back"
        )

    @property
    def uncertainty_ms(self) -> int:
        """Half-width of this node's clock error, as stamped on its entries."""
        return self._uncertainty_ms

    def _identity(self) -> Identity:
        return Identity(self.name, self.regions, self._uncertainty_ms, self.options.document_bytes)

    def _resolver(self, schema: CollectionSchema) -> Resolver | None:
        function = schema.policy.resolver
        return (
            None if function is None else guarded(function, partial(plain_text, schema), self.options.guard)
        )

    def _after_commit(self, batch: Batch) -> None:
        self.statistics.committed(batch, self.name, self.now_ms())

    def _after_move(self, vector: dict[str, int]) -> None:
        self.freshness.moved(vector)
        self.committed.notify()

    def _notice_step(self) -> None:
        """Offsets from peers that are out of reach at present would go on accusing a clock that was set right."""
        before = self._wall_minus_loop_ms
        now_ms = self.now_ms() - int(asyncio.get_running_loop().time() * 1000)
        if before is not None and abs(now_ms - before) > 100:
            self.offsets.stepped(now_ms - before)
        self._wall_minus_loop_ms = now_ms

    async def _compare_clocks(self, peer: str) -> None:
        while True:
            self._notice_step()
            sent_ms = self.now_ms()
            try:
                reply = await self._peers.call(peer, PingCall(), timeout_s=self.options.peer_timeout_s)
                if isinstance(reply, PingReply):
                    self.offsets.add(peer, sent_ms, reply.now_ms, self.now_ms())
            except AtollError:
                pass  # the link's status says that the peer is out of reach
            now_ms = self.now_ms()
            interval = self.offsets.interval(now_ms, self._kernel_uncertainty_ms())
            self._uncertainty_ms = min(interval.uncertainty_ms, 60_000)
            distance = interval.distance_ms(now_ms)
            self._clock_off_ms = distance if distance > self.options.max_clock_offset_ms else 0
            await asyncio.sleep(self.options.ping_s)

    async def _adopt(self) -> None:
        """For ever: another node may write by other declarations as long as a rollout lasts."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                done = await self.adoption.run()
            except AtollError:
                await asyncio.sleep(self.options.housekeeping_s)  # a full disk may have room again
                continue
            pause_s = _LOOKED_AFTER_S if done else self.options.housekeeping_s
            await asyncio.sleep(max(pause_s, _SHARE * (loop.time() - began_s)))

    async def _probe_store(self) -> None:
        """Once nobody sends writes here any more, this is how the region learns that it can take them again."""
        with contextlib.suppress(AtollError):
            await self.store.raise_counter("probe_ms", self.now_ms())
            self.door.store_error = None

    async def _forget(self) -> None:
        """Retention, in bounded pieces; a failing disk is the commit path's to report."""
        now_ms = self.now_ms()
        with contextlib.suppress(AtollError):
            while await self.store.forget(  # noqa: ASYNC110 - it gives way between two pieces of work
                remembered_before_ms=now_ms - int(self.options.idempotency_s * 1000),
                audit_before_ms=now_ms - int(self.options.audit_s * 1000),
                audit_keep=self.options.audit_most,
            ):
                await asyncio.sleep(0)

    async def _truncate(self) -> None:
        while True:
            if self.door.store_error is None:
                with contextlib.suppress(AtollError):  # a failing disk is the commit path's to report
                    await self.truncation.round()
            await asyncio.sleep(self.options.journal_round_s)

    async def _housekeeping(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(self.options.housekeeping_s)
            await self.store.checkpoint()
            rounds += 1
            if self.door.store_error is not None:
                await self._probe_store()
            if rounds % 60 == 0 and self.door.store_error is None:
                await self._forget()


def _link_to(peer: str) -> str:
    """The name of a lease."""
    return f"link {peer}"
