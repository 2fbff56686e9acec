"""Group commit: every change to a region's data passes here, local or remote.

All work that waits when a commit begins becomes one transaction with one fsync. The first arrival wakes the task at the
event loop's next turn, so work that is ready in this turn joins it. While turns bring more work, the commit waits for
them; an idle region commits without delay. Work that arrives during a commit joins the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.vector import descends, merge
from atoll.commit.batch import KEPT_ASIDE, Admit, Batch, Identity, SnapshotPage
from atoll.documents.entry import EncodedEntry, decode_entry
from atoll.documents.mutation import Receipt, Write
from atoll.documents.rules import Rules
from atoll.errors import (
    AtollError,
    ClockAhead,
    CorruptEntry,
    Indefinite,
    Overloaded,
    SerializationConflict,
    StoreUnreachable,
    Unavailable,
)
from atoll.replication.inbox import Inbox
from atoll.store.port import AuditRow, Parked, Store, Transaction, Wanted


@dataclass(frozen=True, slots=True)
class GroupCommitOptions:
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
    closing_s: float = 5.0
    """How long `close` waits for a commit that is under way, before it cuts it."""


_MOST_RECORDS = 10_000
"""Of one document, that are looked at when its collection's declaration has changed."""
_MOST_TURNS = 8
"""Of the event loop, that a write waits at most while each brings others."""
_MOST_LOST = 8
"""Turns that may be lost to other nodes before the writers are told."""


class _Pending(NamedTuple):
    write: Write
    answer: asyncio.Future[Receipt]


class Maintenance(NamedTuple):
    """What a region does to its own documents when its declarations have changed."""

    collection: str = ""
    keys: tuple[str, ...] = ()
    """Documents to be shown as the present declarations say."""
    parked: tuple[Parked, ...] = ()
    """Changes to be tried again."""
    schemas: Mapping[str, str] = MappingProxyType({})
    """What to commit for them: see `Commit.schemas`."""
    instead_of: Mapping[str, str] = MappingProxyType({})
    """collection → what has to be said of it still, or else nothing is."""

    def said(self, stored: Mapping[str, str]) -> dict[str, str]:
        return {
            name: fingerprint
            for name, fingerprint in self.schemas.items()
            if name not in self.instead_of or stored.get(name) == self.instead_of[name]
        }


class _PendingMaintenance(NamedTuple):
    work: Maintenance | SnapshotPage
    done: asyncio.Future[None]


class _CommitGroup(NamedTuple):
    """Those who go through the group commit together."""

    writes: list[_Pending]
    remote: list[EncodedEntry]
    maintenance: _PendingMaintenance | None

    def fail(self, error: AtollError) -> None:
        waiting: list[asyncio.Future[Any]] = [pending.answer for pending in self.writes]
        if self.maintenance is not None:
            waiting.append(self.maintenance.done)
        for future in waiting:
            if not future.done():
                future.set_exception(error)


class _Outcome(NamedTuple):
    """What a turn comes to, once its commit is durable."""

    batch: Batch
    answers: list[tuple[_Pending, Receipt | AtollError]]
    waiting: list[EncodedEntry]
    """Remote entries whose time has not come."""
    ahead: dict[str, ClockAhead]
    """Origins that are held back."""


def _untrusted() -> Unavailable:
    return Unavailable("another database has taken the place of this region's; it is asking its peers first")


def _incomplete() -> Unavailable:
    return Unavailable("this region takes over a snapshot: it takes no writes before")


class GroupCommit:
    """Serialises all commits of one node. Belongs to one event loop: `open` it there, and `close` it."""

    def __init__(
        self,
        store: Store,
        rules: Mapping[str, Rules],
        clock: HybridLogicalClock,
        identify: Callable[[], Identity],
        now_ms: Callable[[], int],
        *,
        admit: Admit | None = None,
        history_changed: Callable[[str, bool], None] | None = None,
        options: GroupCommitOptions = GroupCommitOptions(),
    ) -> None:
        """`history_changed(history, lossy)` is called when the database is in a history that is not trusted.

        `lossy` says whether it lacks what this node had seen. Without the callback every history is trusted.
        """
        self.vector: dict[str, int] = {}
        """What the region has, as far as this node knows: never more than is durable."""
        self.inbox = Inbox()
        self.store_error: AtollError | None = None
        """Why the last commit failed; None while the store takes writes."""
        self.held: ClockAhead | None = None
        """Why remote entries are held back: a peer's clock runs ahead of what is allowed."""
        self.declared: Mapping[str, str] = {}
        """collection → fingerprint of its declaration at this node; other nodes of the region may have others."""
        self._store = store
        self._rules = rules
        self._clock = clock
        self._identify = identify
        self._now_ms = now_ms
        self._admit = admit
        self._history_changed = history_changed
        self._trusted: str | None = None
        self._options = options
        self._queue: deque[_Pending] = deque()
        self._maintenance: deque[_PendingMaintenance] = deque()
        self._called = asyncio.Event()
        """Set when there is something to do."""
        self._waited = 0
        """How many writes waited when it was set."""
        self._task: asyncio.Task[None] | None = None
        self._in_doubt = False
        """Whether a commit has been sent, and nothing was heard of it."""
        self._following = False
        self._unsure = False
        """Whether a commit may have happened of which nothing was heard."""
        self._covered: list[tuple[dict[str, int], asyncio.Future[None]]] = []
        self._backpressure: list[asyncio.Future[None]] = []
        self._in_flight: list[EncodedEntry] = []
        """Remote entries in the commit that is under way."""
        self._turns: list[asyncio.Future[None]] = []
        """Those who wait for its end."""
        self._listeners: list[Callable[[Batch], None]] = []
        self._followers: list[Callable[[dict[str, int]], None]] = []
        self._closed = False
        self._pausing = False
        self._held_back: set[str] = set()
        self._granted: dict[str, int] = {}
        self._applied_s = 0.0
        """When remote entries were last applied, by the event loop's clock."""

    async def open(self) -> None:
        """Find out where the region stands, and take what comes from now on. Raises what the store raises.

        Idempotent: a region whose first start failed elsewhere may be started again.
        """
        if not self._following:
            self._following = True
            self._store.follow(self._elsewhere, self._another)
        self.vector = await self._store.positions()
        self._clock.last = max(self._clock.last, await self._store.clock())
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="door")

    def listen(self, listener: Callable[[Batch], None]) -> None:
        """`listener` is called after each durable commit of this node, in commit order; it must not raise."""
        self._listeners.append(listener)

    def follow(self, follower: Callable[[dict[str, int]], None]) -> None:
        """`follower` gets the vector each time that it moves, whoever committed; it must not raise."""
        self._followers.append(follower)

    async def write(self, write: Write) -> Receipt:
        """Commit a local write; durable on return.

        Raises RequestErrors, what `admit` and the store raise (Indefinite among it), and Overloaded. A caller that is
        cancelled does not know whether it was committed.
        """
        if len(self._queue) >= self._options.queued_writes or self._closed:
            raise Overloaded(
                "this region is closing"
                if self._closed
                else f"{len(self._queue)} writes wait already; slow down"
            )
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(write, answer))
        self._call()
        return await answer

    async def maintain(self, work: Maintenance | SnapshotPage) -> None:
        """Do it between the writes; durable on return. Raises what the store raises, and Overloaded."""
        if self._closed:
            raise Overloaded("this region is closing")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._maintenance.append(_PendingMaintenance(work, done))
        self._call()
        await done

    def take_note(self, stamp: int) -> None:
        """Of a stamp that a peer has seen: what is written here from now on has later ones. Raises ClockAhead."""
        self._clock.update(stamp)

    def deliver(self, encoded: list[EncodedEntry], link: str) -> None:
        """Take entries from a link; they are applied when their contexts are covered."""
        for each in encoded:
            self.inbox.add(each, link, self.vector)
        if self.inbox:
            self._call()

    def discard_pending(self, origin: str, past: int) -> bool:
        """An origin has nothing past this seq (any more): drop what waits of it. Whether there was something."""
        dropped = self.inbox.drop_past(origin, past)
        if dropped:
            self._wake(self._backpressure)
        return dropped

    def in_flight(self, origin: str, past: int) -> bool:
        """Whether the commit that is under way holds entries of an origin past a seq."""
        return any(each.entry.origin == origin and each.entry.seq > past for each in self._in_flight)

    async def await_commit(self) -> None:
        """Wait until the commit that is under way has ended, one way or the other."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(over)
        await over

    async def backpressure(self, link: str, bytes_waiting: int) -> None:
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
            self._backpressure.append(future)
            since_s = max(since_s, self._applied_s)
            try:
                async with asyncio.timeout_at(since_s + self._options.stuck_s):
                    await future
            except TimeoutError:
                since_s = loop.time()
                if self.store_error is None and self.held is None:
                    self._granted[link] = waiting + bytes_waiting

    async def covered(self, vector: Mapping[str, int]) -> None:
        """Wait until the region has seen `vector`. Raises what the store raises."""
        if descends(self.vector, vector):
            return
        await self.refresh()  # another node may have it
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

    async def refresh(self) -> None:
        """Take note of what other nodes have committed. Raises what the store raises."""
        found = await self._store.positions()
        if not descends(self.vector, found):
            self._move(merge(self.vector, found))

    def trust(self, history: str) -> None:
        """Local writes may go into this history of the database, and into no other."""
        self._trusted = history

    def _another(self, history: str, *, lossy: bool = False) -> None:
        if self._history_changed is not None:
            self._history_changed(history, lossy)

    def _trusts(self, transaction: Transaction) -> bool:
        return self._history_changed is None or transaction.history == self._trusted

    async def go_back(self) -> int:
        """The database may have lost commits: be where it is. Returns its clock. Raises what the store raises."""
        found = await self._store.positions()
        clock = await self._store.clock()
        self.vector = dict(found)
        return clock

    def _elsewhere(self, positions: Mapping[str, int]) -> None:
        """Another node has committed."""
        if not descends(self.vector, positions):
            self._move(merge(self.vector, positions))

    async def close(self) -> None:
        """Refuse what still waits; nothing of it was acknowledged. A commit under way may end, or is cut."""
        self._closed = True
        for pending in self._queue:
            if not pending.answer.done():
                pending.answer.set_exception(Overloaded("this region is closing"))
        for maintenance in self._maintenance:
            if not maintenance.done.done():
                maintenance.done.set_exception(Overloaded("this region is closing"))
        self._queue.clear()
        self._maintenance.clear()
        self._wake(self._backpressure)
        self._wake(self._turns)
        if self._task is not None:
            self._called.set()
            await asyncio.wait({self._task}, timeout=self._options.closing_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- opening ---------------------------------------------------------------------------------------

    def _call(self) -> None:
        if not self._called.is_set():
            self._waited = len(self._queue)
            self._called.set()

    async def _run(self) -> None:
        while not self._closed:
            if self._called.is_set():
                await asyncio.sleep(0)  # those who were just answered may have more
            else:
                await self._called.wait()
            await self._gather()
            self._called.clear()
            if not self._closed:
                await self._open()

    async def _gather(self) -> None:
        """Open as soon as a turn of the event loop brings nobody new: one commit for all who are on their way."""
        waited = self._waited
        for _ in range(_MOST_TURNS - 1):
            waiting = len(self._queue)
            if not waited < waiting < self._options.writes_per_commit:
                return
            waited = waiting
            await asyncio.sleep(0)

    async def _open(self) -> None:
        group = self._gathered()
        remote = self._in_flight = group.remote
        try:
            if group.writes or remote or group.maintenance is not None:
                await self._commit(group)
            elif self._unsure:
                await self.refresh()
                self._unsure = False
        except AtollError as error:
            self.store_error = error
            self._unsure = self._unsure or not error.definite
            group.fail(error)
            self._retry(remote)
        except BaseException as error:
            self._unsure = self._unsure or self._in_doubt
            group.fail(self._unexpected(error))
            self._retry(remote)
            if not isinstance(error, Exception):
                raise
            # A defect: nobody may wait for ever on it, and it must not pass unseen.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a commit failed unexpectedly", "exception": error}
            )
        finally:
            self._in_doubt = False
            self._in_flight = []
            self._wake(self._turns)
        if self._queue or self._maintenance or (remote and self.inbox and not self._pausing):
            self._call()

    def _gathered(self) -> _CommitGroup:
        remote: list[EncodedEntry] = []
        if not self._pausing:
            remote = self.inbox.ready(self.vector, self._options.entries_per_commit, self._held_back)
        taken = (self._queue.popleft() for _ in range(min(len(self._queue), self._options.writes_per_commit)))
        writes = [pending for pending in taken if not pending.answer.done()]
        return _CommitGroup(writes, remote, self._maintenance.popleft() if self._maintenance else None)

    async def _commit(self, group: _CommitGroup) -> None:
        for _ in range(_MOST_LOST - 1):
            try:
                return await self._run_transaction(group)
            except SerializationConflict:
                self._in_doubt = False
        return await self._run_transaction(group)

    async def _run_transaction(self, group: _CommitGroup) -> None:
        known = self.vector
        async with self._store.begin(self._wanted(group)) as transaction:
            self._take_up(transaction, known)
            outcome = self._work(transaction, group)
            said: dict[str, str] = {}
            if group.maintenance is not None:
                said = await self._maintain(transaction, outcome.batch, group.maintenance.work)
            commit = outcome.batch.commit()
            commit.schemas.update(self._mixed(transaction.schemas) | said)
            if commit.segments or commit.remembered or group.maintenance is not None:
                self._in_doubt = True
                await transaction.commit(commit)
                self._in_doubt = False
                self.store_error = None
            # Nothing is awaited between the commit and its announcement.
            self._conclude(outcome)
            if group.maintenance is not None and not group.maintenance.done.done():
                group.maintenance.done.set_result(None)

    def _mixed(self, stored: Mapping[str, str]) -> dict[str, str]:
        """What a commit of this node says of collections that were all shown by other declarations than its own.

        Whoever starts next with declarations, be they these or those, must find out.
        """
        if stored == self.declared or not self.declared:
            return {}
        return {
            name: ""
            for name, fingerprint in stored.items()
            if fingerprint and name != KEPT_ASIDE and fingerprint.partition("?")[0] != self.declared.get(name)
        }

    def _take_up(self, transaction: Transaction, known: Mapping[str, int]) -> None:
        """Go on from where the database stands: other nodes may have committed, or a commit in doubt happened."""
        self._clock.last = max(self._clock.last, transaction.clock)
        self._unsure = False
        if not self._trusts(transaction):
            self._another(transaction.history)
            if not descends(transaction.positions, known):
                self.vector = dict(transaction.positions)
        if transaction.positions == self.vector:
            return
        if not descends(transaction.positions, known):
            # Seqs that were given out must not be given out again: peers may hold them.
            self.vector = dict(transaction.positions)
            self._trusted = None
            self._another(transaction.history, lossy=True)
            raise StoreUnreachable(
                f"the database stands at {dict(transaction.positions)}, and stood at {dict(known)} already: it has "
                "lost commits, by a failover or a restored copy; what peers hold of them comes back by their links"
            )
        if not descends(self.vector, transaction.positions):
            self._move(merge(self.vector, transaction.positions))

    def _work(self, transaction: Transaction, group: _CommitGroup) -> _Outcome:
        batch = Batch(
            self._identify(),
            self._rules,
            self._clock,
            transaction.positions,
            rows=transaction.rows,
            remembered=transaction.remembered,
            audit=transaction.audit,
            now_ms=self._now_ms(),
            admit=self._admit,
        )
        answers: list[tuple[_Pending, Receipt | AtollError]]
        if transaction.schemas.get(KEPT_ASIDE):
            # They would claim to have seen what is not here yet. What the peers send goes on.
            answers = [(pending, _incomplete()) for pending in group.writes]
        elif self._trusts(transaction):
            answers = [(pending, self._attempt(batch, pending.write)) for pending in group.writes]
        else:
            # Peers may hold the numbers that these would get. What the peers send goes on.
            answers = [(pending, _untrusted()) for pending in group.writes]
        waiting: list[EncodedEntry] = []
        ahead: dict[str, ClockAhead] = {}
        for encoded in group.remote:
            try:
                batch.apply(encoded)
            except ClockAhead as error:
                # Held, not dropped: time itself will make the entry acceptable. Other origins go on.
                ahead[encoded.entry.origin] = error
                waiting.append(encoded)
            except CorruptEntry:
                waiting.append(encoded)  # what it had seen is held back
        return _Outcome(batch, answers, waiting, ahead)

    @staticmethod
    async def _maintain(
        transaction: Transaction, batch: Batch, maintenance: Maintenance | SnapshotPage
    ) -> dict[str, str]:
        """Returns what to say of collections: see `Commit.schemas`."""
        if isinstance(maintenance, SnapshotPage):
            batch.install_page(maintenance)
            return dict(maintenance.schemas)
        for parked in maintenance.parked:
            batch.reapply(parked)
        contested = [key for key in maintenance.keys if batch.contested((maintenance.collection, key))]
        recorded: dict[str, list[AuditRow]] = {}
        if contested:
            recorded = await transaction.recorded(maintenance.collection, contested, _MOST_RECORDS)
        for key in maintenance.keys:
            batch.re_resolve((maintenance.collection, key), recorded.get(key, ()))
        return maintenance.said(transaction.schemas)

    @staticmethod
    def _attempt(batch: Batch, write: Write) -> Receipt | AtollError:
        try:
            return batch.write(write)
        except AtollError as error:
            return error
        except Exception as error:
            # A defect met by one write leaves no trace in the batch: the others go on.
            failure = AtollError(f"the write failed unexpectedly: {error!r}")
            failure.__cause__ = error
            return failure

    def _conclude(self, outcome: _Outcome) -> None:
        batch = outcome.batch
        loop = asyncio.get_running_loop()
        if batch.applied:
            self._applied_s = loop.time()
        self._move(batch.vector if descends(batch.vector, self.vector) else merge(batch.vector, self.vector))
        for origin, error in outcome.ahead.items():
            self.held = error
            self._held_back.add(origin)
            loop.call_later(self._options.retry_s, self._release, origin)
        self.inbox.give_back(outcome.waiting, self.vector)
        if not self._held_back:
            self.held = None
        for (_, answer), result in outcome.answers:
            if answer.done():
                continue
            if isinstance(result, AtollError):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        for listener in self._listeners:
            listener(batch)
        if self._backpressure:
            self._wake(self._backpressure)

    def _move(self, vector: dict[str, int]) -> None:
        before, self.vector = self.vector, vector
        if vector == before:
            return
        if self.inbox:
            for origin, seq in vector.items():
                self.inbox.drop(origin, before.get(origin, 0) + 1, seq)
            if self.inbox:
                self._call()  # another node may have brought what something here waited for
        for follower in self._followers:
            follower(vector)
        for wanted, future in self._covered:
            if not future.done() and descends(vector, wanted):
                future.set_result(None)

    def _wanted(self, group: _CommitGroup) -> Wanted:
        documents: dict[str, set[str]] = {}
        audit: list[str] = []
        for pending in group.writes:
            for mutation in pending.write.mutations:
                if mutation.collection in self._rules:  # a peer's schema may be newer
                    documents.setdefault(mutation.collection, set()).add(mutation.key)
        entries = [encoded.entry for encoded in group.remote]
        if group.maintenance is not None:
            work = group.maintenance.work
            for parked in work.parked:
                with contextlib.suppress(AtollError):
                    entries.append(decode_entry(parked.body))
            if isinstance(work, SnapshotPage):
                for collection, key, _ in work.documents:
                    documents.setdefault(collection, set()).add(key)
                audit += [losing.id for losing in work.resolved]
            elif work.keys:
                documents.setdefault(work.collection, set()).update(work.keys)
        for entry in entries:
            for change in entry.changes:
                if change.collection in self._rules:
                    documents.setdefault(change.collection, set()).add(change.key)
                audit += [losing.id for losing in change.resolved]
        keys = [write.idempotency_key for write, _ in group.writes if write.idempotency_key is not None]
        return Wanted({name: sorted(found) for name, found in documents.items()}, keys, audit)

    # -- failing ---------------------------------------------------------------------------------------

    def _unexpected(self, error: BaseException) -> AtollError:
        if self._in_doubt:
            return Indefinite(f"the commit was cut short ({error!r}): the write may have happened")
        if isinstance(error, asyncio.CancelledError):
            return Overloaded("this region is closing")
        return AtollError(f"the commit failed unexpectedly: {error!r}")

    def _retry(self, remote: Sequence[EncodedEntry]) -> None:
        self.inbox.give_back(list(remote), self.vector)
        if (remote or self._unsure) and not self._pausing and not self._closed:
            self._pausing = True
            asyncio.get_running_loop().call_later(self._options.retry_s, self._resume)

    def _release(self, origin: str) -> None:
        self._held_back.discard(origin)
        self._call()

    def _resume(self) -> None:
        self._pausing = False
        self._call()

    @staticmethod
    def _wake(waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()
