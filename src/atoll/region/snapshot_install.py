"""A region that comes back too late, or with an empty disk: a snapshot of a peer brings it up.

A stream says so when a peer's journal no longer holds what comes next here. Then, in this order:

1. *Pull.* Pages of all that a peer holds are kept aside, in a collection of their own. No link pulls meanwhile.
2. *Adopt.* Once all pages are here, the vector from which the peer began to read becomes this region's, in a commit
   of its own. The region holds that much durably now, and says so.
3. *Cover.* Links pull again, until everything is here that the peer had when it read the last page: for pages may hold
   that, too. Were they merged before, documents would show what the vector does not say; and had the peer lost its
   disk, this region alone would hold changes that nobody can number or pass on. Where that has come true by now, the
   pages are left, and a new round begins, with a peer that has all that was adopted.
4. *Merge.* The pages, like any state of a document, in any order and as often as it takes.

Until the end nothing is read or written here. Counters say in the store which round is under way and which is done;
the pages say how far it is. So a crash goes on where it was, and every step can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.clock import HybridLogicalClock
from atoll.commit.snapshot_page import KEPT_ASIDE, SnapshotPage
from atoll.documents.rules import Rules
from atoll.errors import AtollError, ClockAhead, ReplicationError, StoreCorrupt, Unavailable
from atoll.recovery.restore import RESTORED
from atoll.region.divergence import entry_digest
from atoll.region.group_commit import GroupCommit
from atoll.region.options import RegionOptions
from atoll.replication import snapshot
from atoll.replication.link import LinkStatus
from atoll.replication.messages import Call, Reply, SnapshotCall, SnapshotPlace, SnapshotReply
from atoll.replication.snapshot import Content
from atoll.store.port import Row, Store

LEASE = "snapshot"
_BORN = "born_ms"
"""When this store was first opened: it tells a peer's new disk from its old one."""
_ROUND = "snapshot round"
_ADOPTING = "snapshot adopting"
"""The last round whose vector was, or is about to be, adopted."""
_DONE = "snapshot done"
_LATE = "snapshot late"
"""The last round after whose adoption another node's link was told once more that it comes too late."""
_LOOK_EVERY, _SURE_FOR, _ADOPTED_AFTER = 0.5, 1.5, 2.0
"""In leases: how often a node looks whether another one takes a snapshot over; for how long it knows then that none
has adopted a vector; how long that one waits before it does."""
_LONGEST_TIMEOUT_S = 30.0
_MERGED_AT_ONCE = 200
_MOST_FAILURES = 5
"""In a row, before another peer is asked instead; two, when the link to this one is down. So often is a peer out of
reach, too, before what it alone has is no longer waited for."""

logger = logging.getLogger("atoll.region")


class Linked(Protocol):
    """A link, as far as it is needed here."""

    @property
    def status(self) -> LinkStatus:
        """What it knows of its peer."""

    def reopen(self) -> None:
        """Ask the peer anew."""


class _Page(msgspec.Struct, array_like=True):
    """As it lies in the store."""

    round: int
    peer: str
    page: SnapshotReply


@dataclass(slots=True)
class _Round:
    """A snapshot as far as it is here."""

    peer: str
    began: dict[str, int]
    """What the peer had before it read the first page: all of that is in the snapshot."""
    until: dict[str, int]
    """What it had after the last one: nothing later is in it."""
    incarnation: tuple[int, int]
    declared: dict[str, dict[str, str]]
    next: SnapshotPlace | None
    pages: list[int] = field(default_factory=list)
    lasts: dict[int, bytes] = field(default_factory=dict)
    """seq → digest of entries of the peer's own that pages may show, and that are not in what was adopted."""

    @classmethod
    def of(cls, peer: str, page: SnapshotReply) -> _Round:
        return cls(peer, page.before, page.after, page.incarnation, page.declared, page.next)

    def goes_on_with(self, page: SnapshotReply) -> bool:
        """Whether the page is of the same snapshot: of a peer that has lost nothing, and reads alike."""
        return (page.incarnation, page.declared) == (self.incarnation, self.declared) and vectors.descends(
            page.before, self.began
        )

    def take(self, page: SnapshotReply, number: int) -> None:
        self.until = vectors.merge(self.until, page.after)
        self.next = page.next
        self.pages.append(number)
        seq = page.after.get(self.peer, 0)
        if page.last is not None and seq > self.began.get(self.peer, 0):
            self.lasts.setdefault(seq, page.last)


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Page).decode


class SnapshotInstall:
    """Of one region. `open` it with the store, then `run` it."""

    def __init__(
        self,
        region: str,
        rules: Mapping[str, Rules],
        links: Mapping[str, Linked],
        store: Store,
        group_commit: GroupCommit,
        *,
        declared: Mapping[str, str],
        clock: HybridLogicalClock,
        ask: Callable[[str, Call, float], Awaitable[Reply]],
        claim: Callable[[str], Awaitable[bool]],
        release: Callable[[str], Awaitable[None]],
        review: Callable[[], None],
        now_ms: Callable[[], int],
        options: RegionOptions,
    ) -> None:
        """`declared`: collection → fingerprint of its declaration.

        `review` is called when links are to ask for other origins than before: see `pulling`."""
        self.pending = False
        """Whether the region holds back."""
        self.pulling = False
        """Whether pages are fetched: no entries are, meanwhile."""
        self.completed = 0
        """Snapshots that this node has taken over."""
        self._region = region
        self._rules = rules
        self._links = links
        self._store = store
        self._group_commit = group_commit
        self._declared = declared
        self._clock = clock
        self._ask = ask
        self._claim = claim
        self._release = release
        self._review = review
        self._now_ms = now_ms
        self._options = options
        self._late: dict[str, dict[str, int]] = {}
        """peer → what its journal no longer holds and was asked for."""
        self._noticed = asyncio.Event()
        self._number = 0
        self._rounds: dict[int, _Round] = {}
        self._pages = 0
        self._merged = 0
        self._trouble = ""
        self._missed: dict[str, int] = {}
        """peer → how often in a row it was out of reach while its entries were waited for."""
        self._looking_on = False
        self._looked_s = 0.0
        """When it last began to look whether another node of this region has begun a round."""

    async def open(self) -> None:
        """Look whether an earlier run has not finished. Raises what the store raises."""
        if not await self._store.counter(_BORN):
            await self._store.raise_counter(_BORN, self._now_ms())
        self._looked_s = asyncio.get_running_loop().time()
        self._number = await self._store.counter(_ROUND)
        if await self._store.counter(_DONE) < self._number:
            await self._take_up()

    def too_late(self, peer: str, past: Mapping[str, int]) -> None:
        """A peer's journal no longer holds what comes next here."""
        self._late[peer] = dict(past)
        self._noticed.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                if self.pending:
                    await self._go_on()
                else:
                    await self._watch()
            except AtollError as error:
                self._trouble = error.message
                await asyncio.sleep(self._options.snapshot_retry_s)

    async def page(self, place: SnapshotPlace) -> SnapshotReply:
        """For a peer. Raises Unavailable while documents here are not what the vector says, and what the store
        raises.
        """
        stored = await self._store.schemas()
        if any(stored.get(name) != wanted for name, wanted in self._declared.items()):
            raise Unavailable(f"{self._region} is taking up new declarations: ask again", region=self._region)
        counter = self._store.counter
        incarnation = (await counter(_BORN), await counter(RESTORED))
        page = await snapshot.read_page(
            self._store,
            self._rules,
            place,
            incarnation,
            self._check_merged,
            most_rows=self._options.snapshot_page_rows,
        )
        last = await entry_digest(self._store, self._region, page.after.get(self._region, 0))
        return msgspec.structs.replace(page, last=last)

    async def _check_merged(self) -> None:
        """Asked after the vector was read: whoever adopts one says so before."""
        if await self._store.counter(_ADOPTING) > await self._store.counter(_DONE):
            raise Unavailable(
                f"{self._region} is itself taking a snapshot over: ask again", region=self._region
            )

    @property
    def due(self) -> bool:
        """Whether a snapshot is taken over, or may have to be."""
        return self.pending or bool(self._late)

    @property
    def reason(self) -> str:
        """What is waited for, and how far it is."""
        doing = [
            f"{each.peer}: {len(each.pages)} pages" + ("" if each.next is not None else ", all of it")
            for each in self._rounds.values()
        ]
        parts = [f"{self._region} takes over a snapshot, since journals no longer hold what it lacks"]
        parts += doing
        if self._merged:
            parts.append(f"{self._merged} of {self._pages} pages merged")
        if self._trouble:
            parts.append(self._trouble)
        return "; ".join(parts)

    def reads(self) -> str | None:
        """Why nothing is read or written here: documents may not be what the vector says. None while they are."""
        if self.pending:
            return f"{self.reason}: it serves nothing before"
        if self._options.shares_store:
            # Whoever adopts a vector waits longer than that. A node that was paused may not know of it.
            unsure_s = asyncio.get_running_loop().time() - self._looked_s
            if unsure_s > _SURE_FOR * self._options.lease_s:
                return (
                    f"this node of {self._region} could not look at its database for {unsure_s:.1f} s: it serves "
                    "nothing before"
                )
        return None

    # -- noticing --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await self._release(LEASE)  # the node that comes too late next may be another one
        looked_s = asyncio.get_running_loop().time()
        if await self._store.counter(_ROUND) > await self._store.counter(_DONE):
            await self._take_up()  # another node of this region has begun
            return
        self._looked_s = looked_s
        if self._late:
            await asyncio.sleep(self._options.snapshot_grace_s)  # another peer may have what this one lacks
            if self._still_late():
                await self._begin()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY * self._options.lease_s):
                await self._noticed.wait()
        self._noticed.clear()

    def _still_late(self) -> bool:
        """Whether some of what a peer's journal no longer holds is not here; links to the others ask anew."""
        for peer, past in list(self._late.items()):
            if vectors.descends(self._group_commit.vector, past):
                del self._late[peer]
                self._links[peer].reopen()
        return bool(self._late)

    async def _begin(self) -> None:
        """A new round; complete ones that are not merged yet stay until it has taken their place."""
        if not await self._claim(LEASE):
            return
        number = max(self._number, await self._store.counter(_ROUND)) + 1
        await self._store.raise_counter(_ROUND, number)
        self._number = number
        await self._store.open_collections([KEPT_ASIDE])
        self._set(pending=True, pulling=True)
        logger.warning("%s", self.reason)

    async def _take_up(self) -> None:
        """What a round has come to, by its pages."""
        await self._store.open_collections([KEPT_ASIDE])
        done = await self._store.counter(_DONE)
        self._number = await self._store.counter(_ROUND)
        self._rounds, self._pages, self._looking_on, after = {}, 0, False, None
        while rows := await self._store.scan_all(KEPT_ASIDE, after=after, limit=1):
            ((after, row),) = rows
            if not row.meta:
                continue
            kept = _kept(row)
            if kept.round > done:
                number = int(after)
                self._pages = max(self._pages, number)
                self._count(kept.round, kept.peer, kept.page, number)
        self._set(pending=self._number > done, pulling=not self._complete)

    def _set(self, *, pending: bool, pulling: bool) -> None:
        # Counters are read one after the other: another node may have ended the round meanwhile.
        self.pending, self.pulling = pending, pending and pulling
        self._review()

    @property
    def _complete(self) -> bool:
        current = self._rounds.get(self._number)
        return current is not None and current.next is None

    # -- pulling ---------------------------------------------------------------------------------------

    async def _go_on(self) -> None:
        if not await self._claim(LEASE):
            await self._look_on()
            return
        if self._looking_on:  # and the node that did it is gone
            await self._take_up()
        if not self._complete:
            await self._pull()
        await self._adopt()
        if not await self._cover():
            await self._begin()
            return
        await self._merge()

    async def _look_on(self) -> None:
        """Another node of this region does it."""
        self._looking_on = True
        await asyncio.sleep(_LOOK_EVERY * self._options.lease_s)
        counter, now_s = self._store.counter, asyncio.get_running_loop().time()
        number, adopting, done = await counter(_ROUND), await counter(_ADOPTING), await counter(_DONE)
        self._looked_s = now_s
        self._set(pending=done < number, pulling=adopting < number)
        if self._late and done < number <= adopting:
            await asyncio.sleep(self._options.snapshot_grace_s)
            if self._still_late():
                await self._store.raise_counter(_LATE, number)

    async def _pull(self) -> None:
        if not self.pulling:
            self._set(pending=True, pulling=True)
        failures, peer = 0, self._source()
        while not self._complete:
            current = self._rounds.get(self._number)
            peer = peer if current is None else current.peer
            try:
                await self._pull_page(peer, current, failures)
                failures, self._trouble = 0, ""
            except AtollError as error:
                self._trouble = f"{peer}: {error.message}"
                failures += 1
                if self._hopeless(peer, error, failures):
                    if current is not None:
                        await self._begin()
                    failures, peer = 0, self._source(but=peer)
                await asyncio.sleep(self._options.snapshot_retry_s)

    def _hopeless(self, peer: str, error: AtollError, failures: int) -> bool:
        """Whether to give up what came from this peer, and to begin anew, with another one if there is one."""
        if isinstance(error, ReplicationError):
            return not isinstance(error, ClockAhead)  # a clock is waited for; what is damaged stays so
        others = any(link.status.connected for other, link in self._links.items() if other != peer)
        down = not self._links[peer].status.connected
        return others and failures >= (2 if down else _MOST_FAILURES)

    def _source(self, but: str = "") -> str:
        """Whose snapshot: of a peer that is in reach, if there is one, and whose journal holds least."""
        return min(
            self._links,
            key=lambda peer: (
                peer == but,
                not self._links[peer].status.connected,
                peer not in self._late,
                peer,
            ),
        )

    async def _pull_page(self, peer: str, current: _Round | None, failures: int) -> None:
        """Raises what the peer and the store raise, and ReplicationErrors for what is refused."""
        place = SnapshotPlace() if current is None or current.next is None else current.next
        timeout_s = min(self._options.peer_timeout_s * (1 + failures), _LONGEST_TIMEOUT_S)
        page = await self._ask(peer, SnapshotCall(place), timeout_s)
        if not isinstance(page, SnapshotReply):
            raise AtollError(f"{peer} answered with {type(page).__name__} when asked for a snapshot")
        if current is not None and not current.goes_on_with(page):
            logger.warning("%s: the snapshot of %s begins anew, for it has changed", self._region, peer)
            await self._begin()
            return
        self._check_declared(peer, page)
        self._check_holds(peer, page)
        snapshot.check_content(page, snapshot.open_page(page), self._rules)
        self._clock.update(page.clock)
        number = self._pages + 1
        kept = _pack(_Page(self._number, peer, page))
        await self._group_commit.commit(SnapshotPage(kept=((KEPT_ASIDE, f"{number:08d}", kept),)))
        self._pages = number
        self._count(self._number, peer, page, number)

    def _count(self, round: int, peer: str, page: SnapshotReply, number: int) -> None:
        self._rounds.setdefault(round, _Round.of(peer, page)).take(page, number)

    def _check_declared(self, peer: str, page: SnapshotReply) -> None:
        """Raises Unavailable for what has no place here: entries of it could be parked, a whole state cannot."""
        for name, lattices in page.declared.items():
            rules = self._rules.get(name)
            kinds = {} if rules is None else {field: each.kind for field, each in rules.lattices.items()}
            lacking = {field for field, kind in lattices.items() if kinds.get(field) != kind}
            if rules is None or lacking:
                what = ", ".join(f"{name}.{field}" for field in sorted(lacking)) or name
                raise Unavailable(f"{peer} has {what}, which is not declared here: upgrade {self._region}")

    def _check_holds(self, peer: str, page: SnapshotReply) -> None:
        """Raises Unavailable while a peer lacks some of what this region has adopted: its pages could not take the
        place of those that were left.
        """
        for each in self._rounds.values():
            if each.next is None and not vectors.descends(page.before, each.began):
                raise Unavailable(f"{peer} lacks some of what {each.peer} had, whose snapshot cannot be used")

    # -- taking over -----------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """From now on the vector says more than the documents show."""
        if self._options.shares_store:  # nobody reads here any more then: see `reads`
            await asyncio.sleep(_ADOPTED_AFTER * self._options.lease_s)
        self._late.clear()
        await self._store.raise_counter(_ADOPTING, self._number)
        await self._group_commit.commit(
            SnapshotPage(vector=self._rounds[self._number].began, schemas={KEPT_ASIDE: str(self._number)})
        )
        self._set(pending=True, pulling=False)
        for link in self._links.values():
            link.reopen()

    async def _cover(self) -> bool:
        """Wait for every entry that may be in the pages.

        False when it takes another snapshot: a journal no longer holds them either, or nobody will ever send them.
        """
        until: dict[str, int] = {}
        for each in self._finished():
            until = vectors.merge(until, each.until)
        covered = asyncio.ensure_future(self._group_commit.covered(until))
        self._missed.clear()
        try:
            while not covered.done():
                noticed = asyncio.ensure_future(self._noticed.wait())
                await asyncio.wait(
                    {covered, noticed},
                    timeout=self._options.lease_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                noticed.cancel()
                if covered.done():
                    break
                if await self._late_again() or await self._in_vain():
                    return False
            await covered
            return not await self._forked()
        finally:
            covered.cancel()

    async def _late_again(self) -> bool:
        """Whether this node's links, or another node's, were told so after the adoption."""
        if self._noticed.is_set():
            await asyncio.sleep(self._options.snapshot_grace_s)
            self._noticed.clear()
            if self._still_late():
                return True
        return await self._store.counter(_LATE) >= self._number

    async def _in_vain(self) -> bool:
        """Whether a peer has lost what its pages may show, or is out of reach, and another snapshot can take the place
        of its one.
        """
        connected = [peer for peer, link in sorted(self._links.items()) if link.status.connected]
        for each in self._finished():
            missed = 0 if each.peer in connected else self._missed.get(each.peer, 0) + 1
            self._missed[each.peer] = missed
            if 0 < missed < _MOST_FAILURES:
                continue
            asked = connected if missed else [each.peer]
            said = [vector for peer in asked if (vector := await self._position(peer)) is not None]
            here = self._group_commit.vector
            if any(vectors.descends(vectors.merge(here, vector), each.until) for vector in said):
                continue  # it is on its way
            if any(vectors.descends(vector, each.began) for vector in said):
                logger.warning("%s begins anew: %s lacks what its snapshot shows", self._region, each.peer)
                return True
            if said:
                self._trouble = f"nobody in reach has all that {each.peer} had"
        return False

    async def _position(self, peer: str) -> dict[str, int] | None:
        """What a peer has now, if it says so."""
        call = SnapshotCall(SnapshotPlace("parked"))  # as a rule an empty page
        with contextlib.suppress(AtollError):
            page = await self._ask(peer, call, self._options.peer_timeout_s)
            return page.before if isinstance(page, SnapshotReply) else None
        return None

    async def _forked(self) -> bool:
        """Whether entries have come under numbers that the peer had given to others, which pages may show."""
        for each in self._finished():
            for seq, digest in each.lasts.items():
                here = await entry_digest(self._store, each.peer, seq)
                if here is not None and here != digest:
                    logger.warning(
                        "%s begins anew: entry %d of %s is another one than its snapshot shows",
                        *(self._region, seq, each.peer),
                    )
                    return True
        return False

    def _finished(self) -> Iterator[_Round]:
        """Those that are complete, and whose place no later one has taken."""
        complete = [each for _, each in sorted(self._rounds.items()) if each.next is None]
        for at, each in enumerate(complete):
            if not any(vectors.descends(later.began, each.began) for later in complete[at + 1 :]):
                yield each

    async def _merge(self) -> None:
        self._merged, self._trouble = 0, ""
        for each in self._finished():
            for number in each.pages:
                row = await self._store.get(KEPT_ASIDE, f"{number:08d}")
                if row is None:
                    raise StoreCorrupt(f"page {number} of a snapshot is no longer in the store")
                page = _kept(row).page
                for snapshot_page in _chunks(snapshot.open_page(page), page.clock):
                    await self._group_commit.commit(snapshot_page)
                self._merged += 1
        await self._group_commit.commit(SnapshotPage(schemas={KEPT_ASIDE: ""}))
        await self._store.raise_counter(_DONE, self._number)
        logger.warning("%s has taken over a snapshot of %d pages", self._region, self._merged)
        self.completed += 1
        last, self._rounds, self._pages, self._merged = self._pages, {}, 0, 0
        self._set(pending=False, pulling=False)
        for first in range(1, last + 1, _MERGED_AT_ONCE):
            gone = range(first, min(first + _MERGED_AT_ONCE, last + 1))
            await self._group_commit.commit(
                SnapshotPage(kept=tuple((KEPT_ASIDE, f"{number:08d}", b"") for number in gone))
            )


def _chunks(content: Content, stamp: int) -> Iterator[SnapshotPage]:
    for at in range(0, len(content.documents), _MERGED_AT_ONCE):
        rows = content.documents[at : at + _MERGED_AT_ONCE]
        documents = tuple((content.collection, key, Row(value, meta)) for key, value, meta in rows)
        yield SnapshotPage(documents=documents, stamp=stamp)
    resolved = snapshot.resolved_of(content)
    for at in range(0, len(resolved), _MERGED_AT_ONCE):
        yield SnapshotPage(resolved=resolved[at : at + _MERGED_AT_ONCE])
    for at in range(0, len(content.parked), _MERGED_AT_ONCE):
        yield SnapshotPage(parked=tuple(content.parked[at : at + _MERGED_AT_ONCE]))


def _kept(row: Row) -> _Page:
    try:
        return _decode(row.meta)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"a snapshot's page that was kept aside cannot be read: {error}") from None
