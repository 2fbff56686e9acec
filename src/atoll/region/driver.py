"""Runs pure protocols: performs the effects of their steps, and feeds the outcomes back as events.

A step is taken at once, wherever its event comes from. What ends at once is done at once, too. Tasks of the driver's
own do what has to be waited for. Of each kind there is one at a time. A later one takes the place of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from atoll.causality.origin import of_region
from atoll.causality.types import Generation, Stamp
from atoll.commit.work import Fenced, Noted
from atoll.errors import AtollError
from atoll.ids.after_restore import counters_after_failover
from atoll.protocol import port
from atoll.recovery.numbering import Renumber
from atoll.region.group_commit import GroupCommit
from atoll.region.snapshot_pages import SnapshotPages
from atoll.replication.link import Linked
from atoll.replication.signal import Signal
from atoll.store.port import Store

State = TypeVar("State")
Event = TypeVar("Event")
_AT_ONCE = 200
"""Documents, or changes, that one commit brings under new declarations."""
logger = logging.getLogger("atoll.region")
Work = Callable[[], Awaitable[port.Outcome]]


class ReviewedLink(Linked, Protocol):
    """A link, as far as protocols act on it."""

    def review(self) -> None:
        """Ask for other origins, if others are wanted by now."""

    def reopen(self) -> None:
        """Ask anew."""

    def renew(self) -> None:
        """Ask anew, and have the peer drop what it has not stored of this region."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What other parts of the node do for its protocols."""

    rewind: Callable[[], Awaitable[int]]
    """Go to the database's position; returns its clock (unix milliseconds)."""
    forked_entry: Callable[[], Awaitable[str]]
    trust: Callable[[str], None]
    claim: Callable[[str], Awaitable[Generation | None]]
    release: Callable[[str], Awaitable[None]]
    held: Callable[[], Mapping[str, Generation]]
    """lease → its generation, of those that the node holds."""


@dataclass(frozen=True, slots=True)
class Performer:
    """What the effects of one node's protocols act on."""

    region: str
    store: Store
    group_commit: GroupCommit
    links: Mapping[str, ReviewedLink]
    pages: SnapshotPages
    actions: Actions
    now_ms: Callable[[], int]

    def perform(self, effect: port.Effect) -> Work | None:
        """Do it, or return what does it and has to be waited for."""
        match effect:
            case port.ReviewLinks():
                for link in self.links.values():
                    link.review()
                return None
            case port.RenewLinks():
                for link in self.links.values():
                    link.renew()
                return None
            case port.ReopenLinks(peers):
                for peer in peers:
                    self.links[peer].reopen()
                return None
            case port.Trust(history):
                self.actions.trust(history)
                return None
            case port.Log(message):
                logger.warning("%s", message)
                return None
            case port.WakeAt():
                raise AssertionError("a driver keeps its own time")
            case _:
                return partial(self._outcome, effect)

    async def read_counters(self, names: Iterable[str]) -> port.CountersRead:
        """What a protocol is opened with. Raises what the store raises."""
        return port.CountersRead({name: await self.store.counter(name) for name in names})

    async def _outcome(self, effect: port.Waited) -> port.Outcome:
        match effect:
            case port.RefreshPosition():
                await self.group_commit.progress.refresh()
                return port.Refreshed(self.group_commit.progress.vector)
            case port.ReadState(space, key):
                return port.StateRead(await self.store.state(space, key))
            case port.Rewind():
                return port.Rewound(await self.actions.rewind())
            case port.AwaitCovered(vector):
                await self.group_commit.progress.covered(vector)
                return port.Covered()
            case port.CompareHistories():
                return port.Compared(await self.actions.forked_entry())
            case port.RaiseCounters(counters):
                for name, value in counters.items():
                    await self.store.raise_counter(name, value)
                return port.CountersRaised(counters)
            case port.ReadHistory():
                return port.HistoryRead(await self.store.history_taken_up(), self.own)
            case port.TakeUp(history, clock_ms):
                ids = await self.store.counter("ids")
                leapt = counters_after_failover(ids, last_ms=clock_ms, now_ms=self.now_ms())
                # Numbers that were given out and lost must mean nothing else, whoever holds their entries.
                await self.group_commit.commit(Renumber(self.region, f"the database went on as {history}"))
                await self.store.take_up(history, leapt)
                return port.TakenUp(self.own)
            case port.ReadHolders() | port.Lease() | port.GiveBack():
                return await lease_outcome(self.store, effect)
            case port.ReadParked(after):
                return port.ParkedRead(tuple(await self.store.parked(_AT_ONCE, after=after)))
            case port.ScanKeys(collection, after):
                rows = await self.store.scan_all(collection, after=after, limit=_AT_ONCE)
                return port.KeysScanned(tuple(key for key, _ in rows))
            case port.Claim(name):
                return port.Claimed(name, await self.actions.claim(name))
            case port.Release(name):
                await self.actions.release(name)
                return port.Released(name)
            case port.Commit(step, stamp, fence):
                noted = Noted(step, Stamp(stamp)) if stamp else step
                await self.group_commit.commit(noted if fence is None else Fenced(noted, fence))
                return port.Committed(step)
            case port.ReadSchemas():
                return port.SchemasRead(await self.store.schemas())
            case port.Survey(state, lease):
                held = await self.store.state(*state)
                connected = frozenset(peer for peer, link in self.links.items() if link.status.connected)
                vector = dict(self.group_commit.progress.vector)
                return port.Surveyed(held, vector, connected, self.actions.held().get(lease))
            case _:
                return await self.pages.outcome(effect)

    @property
    def own(self) -> dict[str, int]:
        """The region's own positions, by origin."""
        return of_region(self.group_commit.progress.vector, self.region)


async def lease_outcome(store: Store, effect: port.ReadHolders | port.Lease | port.GiveBack) -> port.Outcome:
    match effect:
        case port.ReadHolders():
            return port.HoldersRead(await store.holders())
        case port.Lease(names, for_s):
            return port.Leased(names, await store.lease(names, for_s))
        case port.GiveBack(names):
            await store.give_back(names)
            return port.GivenBack(names)


class Performing(Protocol):
    """What a driver leaves to its performer."""

    def perform(self, effect: port.Effect) -> Work | None:
        """Do it, or return what does it and has to be waited for."""


class Driver(Generic[State, Event]):
    """Of one protocol of one node. `post` events at any time, and `run` it."""

    def __init__(
        self,
        state: State,
        step: Callable[[State, Event | port.Outcome, float], port.Next[State]],
        performer: Performing,
    ) -> None:
        self.state = state
        self.changed = Signal()
        """Notified after each step that changed the state."""
        self._step = step
        self._performer = performer
        self._wake_s = math.inf
        self._to_do: list[tuple[port.Effect, Work]] = []
        self._present: dict[type[port.Effect], port.Effect] = {}
        """The last effect of each kind: of earlier ones nothing is heard any more."""
        self._posted = asyncio.Event()

    def post(self, event: Event | port.Outcome, not_before_s: float = 0.0) -> None:
        """Take the step that the event leads to."""
        before, now_s = self.state, max(asyncio.get_running_loop().time(), not_before_s)
        self.state, effects = self._step(before, event, now_s)
        self._stepped(before)
        for effect in effects:
            self._present[type(effect)] = effect
            if isinstance(effect, port.WakeAt):
                self._wake_s = effect.at_s
                self._posted.set()
            elif (work := self._performer.perform(effect)) is not None:
                self._to_do.append((effect, work))
                self._posted.set()
        if self.state is not before:
            self.changed.notify()

    def _stepped(self, before: State) -> None:
        """What else follows from a step, before anything is done."""

    async def until(self, true: Callable[[State], bool]) -> None:
        """Wait until that is so of the state."""
        while not true(self.state):
            await self.changed.wait()

    async def settle(self) -> None:
        """Do all that was asked for, here and now. Raises what that raises."""
        while self._to_do:
            self.post(await self._to_do.pop(0)[1]())

    async def run(self) -> None:
        """For ever. Ends with the exception of a defect that a step or an effect meets."""
        running: dict[type[port.Effect], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._posted.clear()
                to_do, self._to_do = self._to_do, []
                for effect, work in to_do:
                    if (earlier := running.get(type(effect))) is not None:
                        earlier.cancel()
                    running[type(effect)] = tasks.create_task(self._perform(effect, work))
                await self._event()

    async def _event(self) -> None:
        """Wait for the next event that asked for something, or for the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if self._wake_s == math.inf else self._wake_s):
                await self._posted.wait()
            return
        # An event loop fires a timer up to its clock's resolution early. A step would take that for too early, for ever
        # where the clock stands still meanwhile.
        due_s, self._wake_s = self._wake_s, math.inf
        self.post(port.Woken(), due_s)

    async def _perform(self, effect: port.Effect, work: Work) -> None:
        try:
            outcome = await work()
        except AtollError as error:
            outcome = port.Failed(effect, error)
        if self._present.get(type(effect)) is effect:
            self.post(outcome)
