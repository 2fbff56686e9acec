"""What peers send: entries wait here for what their writers had seen, and for their turn to be committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atoll.causality.origin import region_of
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.entry import EncodedEntry
from atoll.errors import AtollError, ClockAhead, CorruptEntry, TooLarge
from atoll.region.group_commit import paced
from atoll.region.progress import Progress
from atoll.replication.inbox import Inbox
from atoll.replication.signal import Signal
from atoll.schema.bounds import COMMIT_BYTES
from atoll.store.port import View


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    entries_per_commit: int = 512
    """More remote entries than this wait for the next commit."""
    retry_s: float = 0.5
    """How long to wait before remote entries are tried again after the store refused them."""
    stuck_s: float = 2.0
    """How long a link at its bound waits for anything to be applied, before it may bring more."""
    refresh_s: float = 0.2
    """How often the database is asked whether another node has brought what entries here wait for."""


class RemoteEntries:
    """Entries of peers as a work of the group commit: they are merged in causal order."""

    __slots__ = ("_intake", "ahead", "applied", "entries", "left", "waiting")
    abandoned = False

    def __init__(self, intake: Intake, entries: list[EncodedEntry]) -> None:
        self.entries = entries
        self.waiting: list[EncodedEntry] = []
        """Entries whose time has not come."""
        self.ahead: dict[str, ClockAhead] = {}
        """Origins that are held back."""
        self.left = 0
        """How many the commit had no room for."""
        self.applied = False
        self._intake = intake

    def want(self, wants: Wants) -> None:
        for encoded in self.entries:
            wants.entry(encoded.entry)
            wants.weight_bytes += len(encoded.frame)
        wants.divisible = len(self.entries) > 1

    def perform(self, batch: Batch, view: View) -> None:
        self.waiting, self.ahead, self.left = [], {}, 0
        most_bytes = batch.size_bytes + COMMIT_BYTES
        for at, encoded in enumerate(self.entries):
            if batch.size_bytes >= most_bytes:
                self.left = len(self.entries) - at
                self.waiting += self.entries[at:]
                break
            try:
                batch.apply(encoded)
            except ClockAhead as error:
                # Held, not dropped: time itself will make the entry acceptable. Other origins go on.
                self.ahead[encoded.entry.origin] = error
                self.waiting.append(encoded)
            except CorruptEntry:
                self.waiting.append(encoded)  # what it had seen is held back
        self.applied = bool(batch.applied)

    def committed(self) -> None:
        self._intake.committed(self)

    def failed(self, error: AtollError) -> None:
        self._intake.failed(self, error)


class Intake:
    """Of one node: the inbox of all its links, and their backpressure."""

    def __init__(
        self, progress: Progress, call: Callable[[], None], options: IntakeOptions = IntakeOptions()
    ) -> None:
        """`call` is called when there is something to commit."""
        self.inbox = Inbox()
        self.held: ClockAhead | None = None
        """Why remote entries are held back: a peer's clock runs ahead of what is allowed."""
        self._progress = progress
        self._call = call
        self._options = options
        self._in_flight: list[EncodedEntry] = []
        self._refused = False
        """Whether the store did not take the last ones."""
        self._pausing = False
        self._closed = False
        self._held_back: set[str] = set()
        self._granted: dict[str, int] = {}
        self._at_once = options.entries_per_commit
        self._waiting: list[asyncio.Future[None]] = []
        self._ended = Signal()
        self._blocked = asyncio.Event()
        """Set when entries wait, and none can be applied."""
        self._applied_s = 0.0
        """When remote entries were last applied, by the event loop's clock."""
        progress.follow(self._moved)

    # -- links -----------------------------------------------------------------------------------------

    def deliver(self, encoded: Sequence[EncodedEntry], link: str) -> None:
        """Take entries from a link; they are applied when their contexts are covered."""
        for each in encoded:
            self.inbox.add(each, link, self._progress.vector)
        if self.inbox:
            self._call()

    def discard_pending(self, region: str, past: Mapping[str, int]) -> bool:
        """A region has nothing of its own past this (any more): drop what waits. Whether there was something."""
        origins = self.inbox.origins_of(region)
        dropped = [origin for origin in origins if self.inbox.drop_past(origin, past.get(origin, 0))]
        if dropped:
            self._wake()
        return bool(dropped)

    def in_flight(self, region: str, past: Mapping[str, int]) -> bool:
        """Whether the commit that is under way holds entries of a region past a vector."""
        entries = (each.entry for each in self._in_flight)
        return any(
            region_of(entry.origin) == region and entry.seq > past.get(entry.origin, 0) for entry in entries
        )

    async def await_commit(self) -> None:
        """Wait until the commit that is under way has ended, one way or the other."""
        await self._ended.wait()

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
            self._waiting.append(future)
            since_s = max(since_s, self._applied_s)
            try:
                async with asyncio.timeout_at(since_s + self._options.stuck_s):
                    await future
            except TimeoutError:
                since_s = loop.time()
                if not self._refused and self.held is None:
                    self._granted[link] = waiting + bytes_waiting

    async def ask_for_others(self) -> None:
        """For ever: notices of other nodes' commits may be lost, and those nodes may wait for entries here in turn."""
        while True:
            await self._blocked.wait()
            self._blocked.clear()
            await asyncio.sleep(self._options.refresh_s)
            if self.inbox:
                with contextlib.suppress(AtollError):  # the next time tells
                    await self._progress.refresh()
                self._call()

    def close(self) -> None:
        """Let every link go on: nothing more is taken."""
        self._closed = True
        self._wake()

    # -- group commit ----------------------------------------------------------------------------------

    def take(self) -> RemoteEntries | None:
        """What can be applied now on top of the region's position, for the next commit."""
        if self._pausing:
            return None
        ready = self.inbox.ready(self._progress.vector, self._at_once, self._held_back)
        self._in_flight = ready
        if ready:
            return RemoteEntries(self, ready)
        # Neither store nor clock keep anything back: what is left waits for its past, which a link may have to bring.
        self._refused = False
        if not self._held_back:
            self.held = None
        if self.inbox:
            self._blocked.set()
        return None

    def committed(self, work: RemoteEntries) -> None:
        """What was merged is durable; the rest waits again."""
        self._in_flight, self._refused = [], False
        self._ended.notify()
        loop = asyncio.get_running_loop()
        self._at_once = paced(
            self._at_once, self._options.entries_per_commit, len(work.entries) - work.left, work.left
        )
        if work.applied:
            self._applied_s = loop.time()
        for origin, error in work.ahead.items():
            self.held = error
            self._held_back.add(origin)
            loop.call_later(self._options.retry_s, self._release, origin)
        self.inbox.give_back(work.waiting, self._progress.vector)
        if not self._held_back:
            self.held = None
        self._wake()
        if self.inbox:
            self._call()

    def failed(self, work: RemoteEntries, error: AtollError) -> None:
        """Nothing was stored, or nobody knows: all of it waits again, and is tried in a while, or fewer at once."""
        self._in_flight, self._refused = [], True
        self.inbox.give_back(work.entries, self._progress.vector)
        self._ended.notify()
        if isinstance(error, TooLarge):
            self._at_once = max(1, len(work.entries) // 2)
            self._call()
            return
        if not self._pausing and not self._closed:
            self._pausing = True
            asyncio.get_running_loop().call_later(self._options.retry_s, self._resume)

    def _moved(self, before: dict[str, int], vector: dict[str, int]) -> None:
        if self.inbox:
            for origin, seq in vector.items():
                self.inbox.drop(origin, before.get(origin, 0) + 1, seq)
            if self.inbox:
                self._call()  # another node may have brought what something here waited for
        if self._waiting:
            self._wake()

    def _release(self, origin: str) -> None:
        self._held_back.discard(origin)
        self._call()

    def _resume(self) -> None:
        self._pausing = False
        self._call()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
