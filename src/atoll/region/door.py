"""The group-committing door: every change to a region's data passes here, local or remote.

Whatever waits when the door opens becomes one transaction with one fsync. The first to arrive asks the
event loop to open the door at its next turn, so everyone who is ready in this turn comes along; while
turns bring more, it waits for them, and an idle region commits without delay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.vector import descends
from atoll.core.batch import Address, Batch, Identity
from atoll.core.entry import Entry, Framed, decode_entry
from atoll.core.inbox import Inbox
from atoll.core.mutation import Receipt, Write
from atoll.core.rules import Rules
from atoll.errors import (
    AtollError,
    ClockAhead,
    CorruptEntry,
    Indefinite,
    Overloaded,
    StoreError,
)
from atoll.store.port import AuditFilter, AuditRow, Parked, Row, Store


@dataclass(frozen=True, slots=True)
class DoorOptions:
    writes_per_commit: int = 256
    """More local writes than this wait for the next commit."""
    entries_per_commit: int = 512
    """More remote entries than this wait for the next commit."""
    queued_writes: int = 10_000
    """Beyond it a write is refused with Overloaded: better an error now than an answer too late."""
    retry_s: float = 0.5
    """How long to wait before remote entries are tried again after the store refused them."""
    stuck_s: float = 2.0
    """How long a link at its bound waits for anything to be applied, before it may bring more."""


_MOST_RECORDS = 10_000
"""Of one document, that are looked at when its collection's declaration has changed."""
_MOST_TURNS = 8
"""Of the event loop, that a write waits at most while each brings others."""


class _Pending(NamedTuple):
    write: Write
    answer: asyncio.Future[Receipt]


class Upkeep(NamedTuple):
    """What a region does to its own documents when its declarations have changed."""

    collection: str = ""
    keys: tuple[str, ...] = ()
    """Documents to be shown as the present declarations say."""
    parked: tuple[Parked, ...] = ()
    """Changes to be tried again."""
    schemas: Mapping[str, str] = MappingProxyType({})
    """Collections that are done: see `Commit.schemas`."""


class _PendingUpkeep(NamedTuple):
    work: Upkeep
    done: asyncio.Future[None]


class Door:
    """Serialises all commits of one region. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        rules: Mapping[str, Rules],
        clock: HybridLogicalClock,
        identify: Callable[[], Identity],
        now_ms: Callable[[], int],
        *,
        options: DoorOptions = DoorOptions(),
    ) -> None:
        self.vector: dict[str, int] = store.positions()
        self.inbox = Inbox()
        self.store_error: StoreError | Indefinite | None = None
        """Why the last commit failed; None while the store takes writes."""
        self.held: ClockAhead | None = None
        """Why remote entries are held back: a peer's clock runs ahead of what is allowed."""
        self._store = store
        self._rules = rules
        self._clock = clock
        self._identify = identify
        self._now_ms = now_ms
        self._options = options
        self._queue: deque[_Pending] = deque()
        self._upkeep: deque[_PendingUpkeep] = deque()
        self._scheduled = False
        self._covered: list[tuple[dict[str, int], asyncio.Future[None]]] = []
        self._room: list[asyncio.Future[None]] = []
        self._listeners: list[Callable[[Batch], None]] = []
        self._closed = False
        self._pausing = False
        self._held_back: set[str] = set()
        self._granted: dict[str, int] = {}
        self._applied_s = 0.0
        """When remote entries were last applied, by the event loop's clock."""

    def listen(self, listener: Callable[[Batch], None]) -> None:
        """`listener` is called after each durable commit, in commit order; it must not raise."""
        self._listeners.append(listener)

    async def write(self, write: Write) -> Receipt:
        """Commit a local write; durable on return. Raises RequestErrors, StoreUnwritable, Overloaded."""
        if len(self._queue) >= self._options.queued_writes or self._closed:
            raise Overloaded(
                "this region is closing"
                if self._closed
                else f"{len(self._queue)} writes wait already; slow down"
            )
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(write, answer))
        self._schedule()
        return await answer

    async def keep_up(self, work: Upkeep) -> None:
        """Do it between the writes; durable on return. Raises StoreUnwritable, Indefinite, Overloaded."""
        if self._closed:
            raise Overloaded("this region is closing")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._upkeep.append(_PendingUpkeep(work, done))
        self._schedule()
        await done

    def deliver(self, framed: list[Framed], link: str) -> None:
        """Take entries from a link; they are applied when their contexts are covered."""
        for each in framed:
            self.inbox.add(each, link, self.vector)
        if len(self.inbox):
            self._schedule()

    async def room(self, link: str, bytes_waiting: int) -> None:
        """Wait until less than so much of what the link brought waits: its backpressure.

        Links at their bound can all hold what waits for something that lies behind it in another's stream.
        So one that has waited for `stuck_s`, while nothing at all could be applied, may bring as much again.
        """
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        while not self._closed:
            waiting = self.inbox.bytes_of(link)
            if waiting < bytes_waiting:
                self._granted.pop(link, None)
            if waiting < max(bytes_waiting, self._granted.get(link, 0)):
                return
            future: asyncio.Future[None] = loop.create_future()
            self._room.append(future)
            since_s = max(since_s, self._applied_s)
            try:
                async with asyncio.timeout_at(since_s + self._options.stuck_s):
                    await future
            except TimeoutError:
                since_s = loop.time()
                if self.store_error is None and self.held is None:
                    self._granted[link] = waiting + bytes_waiting

    async def covered(self, vector: Mapping[str, int]) -> None:
        """Wait until the region has seen `vector`."""
        if descends(self.vector, vector):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (dict(vector), future)
        self._covered.append(waiter)
        try:
            await future
        finally:
            if waiter in self._covered:
                self._covered.remove(waiter)

    def close(self) -> None:
        """Refuse what still waits; nothing of it was acknowledged."""
        self._closed = True
        for pending in self._queue:
            if not pending.answer.done():
                pending.answer.set_exception(Overloaded("this region is closing"))
        for upkeep in self._upkeep:
            if not upkeep.done.done():
                upkeep.done.set_exception(Overloaded("this region is closing"))
        self._queue.clear()
        self._upkeep.clear()
        self._wake(self._room)

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._gather, len(self._queue), _MOST_TURNS)

    def _gather(self, waited: int, turns: int) -> None:
        """Open as soon as a turn of the event loop brings nobody new: one commit for all who are on their way."""
        waiting = len(self._queue)
        if waited < waiting < self._options.writes_per_commit and turns > 1:
            asyncio.get_running_loop().call_soon(self._gather, waiting, turns - 1)
        else:
            self._open()

    def _open(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        remote: list[Framed] = []
        if not self._pausing:
            remote = self.inbox.ready(self.vector, self._options.entries_per_commit, self._held_back)
        taken = (self._queue.popleft() for _ in range(min(len(self._queue), self._options.writes_per_commit)))
        writes = [pending for pending in taken if not pending.answer.done()]
        upkeep = self._upkeep.popleft() if self._upkeep else None
        if not writes and not remote and upkeep is None:
            return
        waiting: list[asyncio.Future[Any]] = [pending.answer for pending in writes]
        if upkeep is not None:
            waiting.append(upkeep.done)
        try:
            self._commit(writes, remote, None if upkeep is None else upkeep.work)
        except (StoreError, Indefinite) as error:
            self.store_error = error
            self._fail(waiting, error)
            self._retry(remote)
            return
        except BaseException as error:  # a defect: nobody may wait for ever on it
            self._fail(waiting, AtollError(f"the commit failed unexpectedly: {error!r}"))
            self._retry(remote)
            raise
        if upkeep is not None and not upkeep.done.done():
            upkeep.done.set_result(None)
        if self._queue or self._upkeep or (remote and len(self.inbox) and not self._pausing):
            self._schedule()

    def _commit(self, writes: list[_Pending], remote: list[Framed], upkeep: Upkeep | None) -> None:
        identity = self._identify()
        entries = [framed.entry for framed in remote]
        entries += [decode_entry(parked.body) for parked in (upkeep.parked if upkeep is not None else ())]
        batch = Batch(
            identity,
            self._rules,
            self._clock,
            self.vector,
            rows=self._load(writes, entries, upkeep),
            remembered=self._store.remembered(
                [
                    pending.write.idempotency_key
                    for pending in writes
                    if pending.write.idempotency_key is not None
                ]
            )
            if any(pending.write.idempotency_key for pending in writes)
            else {},
            audit=self._load_audit(entries),
            now_ms=self._now_ms(),
        )
        answers: list[tuple[asyncio.Future[Receipt], Receipt]] = []
        for pending in writes:
            try:
                answers.append((pending.answer, batch.write(pending.write)))
            except AtollError as error:
                pending.answer.set_exception(error)
            except Exception as error:
                # A defect met by one write leaves no trace in the batch: the others go on.
                failure = AtollError(f"the write failed unexpectedly: {error!r}")
                failure.__cause__ = error
                pending.answer.set_exception(failure)
        self._apply(batch, remote)
        if upkeep is not None:
            self._keep_up(batch, upkeep)
        commit = batch.commit()
        if upkeep is not None:
            commit.schemas.update(upkeep.schemas)
        if commit.segments or commit.remembered or upkeep is not None:
            self._store.commit(commit)
            self.store_error = None
        self.vector = batch.vector
        if batch.applied:
            self._applied_s = asyncio.get_running_loop().time()
        for answer, receipt in answers:
            if not answer.done():
                answer.set_result(receipt)
        for listener in self._listeners:
            listener(batch)
        if self._covered:
            for vector, future in self._covered:
                if not future.done() and descends(self.vector, vector):
                    future.set_result(None)
        if self._room:
            self._wake(self._room)

    def _apply(self, batch: Batch, remote: list[Framed]) -> None:
        waiting: list[Framed] = []
        for framed in remote:
            origin = framed.entry.origin
            try:
                batch.apply(framed)
            except ClockAhead as error:
                # Held, not dropped: time itself will make the entry acceptable. Other origins go on.
                self.held = error
                self._held_back.add(origin)
                asyncio.get_running_loop().call_later(self._options.retry_s, self._release, origin)
                waiting.append(framed)
            except CorruptEntry:
                waiting.append(framed)  # what it had seen is held back
        self.inbox.give_back(waiting, batch.vector)
        if remote and not self._held_back:
            self.held = None

    def _keep_up(self, batch: Batch, upkeep: Upkeep) -> None:
        for parked in upkeep.parked:
            batch.reapply(parked)
        for key in upkeep.keys:
            address = (upkeep.collection, key)
            recorded: list[AuditRow] = []
            if batch.contested(address):
                recorded = self._store.conflicts(AuditFilter(*address), limit=_MOST_RECORDS)
            batch.refold(address, recorded)

    def _load(
        self, writes: list[_Pending], entries: list[Entry], upkeep: Upkeep | None
    ) -> dict[Address, Row]:
        wanted: dict[str, set[str]] = {}
        for pending in writes:
            for mutation in pending.write.mutations:
                if mutation.collection in self._rules:  # a peer's schema may be newer
                    wanted.setdefault(mutation.collection, set()).add(mutation.key)
        for entry in entries:
            for change in entry.changes:
                if change.collection in self._rules:
                    wanted.setdefault(change.collection, set()).add(change.key)
        if upkeep is not None and upkeep.keys:
            wanted.setdefault(upkeep.collection, set()).update(upkeep.keys)
        rows: dict[Address, Row] = {}
        for collection, keys in wanted.items():
            for key, row in self._store.load(collection, sorted(keys)).items():
                rows[(collection, key)] = row
        return rows

    def _load_audit(self, entries: list[Entry]) -> dict[str, AuditRow]:
        known: dict[str, AuditRow] = {}
        for entry in entries:
            for change in entry.changes:
                for loser in change.settled:
                    row = self._store.conflict(loser.id)
                    if row is not None:
                        known[loser.id] = row
        return known

    def _retry(self, remote: list[Framed]) -> None:
        if remote:
            self.inbox.give_back(remote, self.vector)
            self._pausing = True
            asyncio.get_running_loop().call_later(self._options.retry_s, self._resume)

    def _release(self, origin: str) -> None:
        self._held_back.discard(origin)
        self._schedule()

    def _resume(self) -> None:
        self._pausing = False
        self._schedule()

    @staticmethod
    def _fail(waiting: list[asyncio.Future[Any]], error: AtollError) -> None:
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    @staticmethod
    def _wake(waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()
