"""Runs pure protocols: performs the effects of their steps, and feeds the outcomes back as events.

A step is taken at once, wherever its event comes from. What ends at once is done at once, too. What has to be waited
for is done by tasks of the driver's own, one at a time of each kind: a later one takes the place of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from atoll.errors import AtollError
from atoll.protocol.effects import (
    AwaitCovered,
    Compared,
    CompareHistories,
    CountersRaised,
    CountersRead,
    Covered,
    Effect,
    Failed,
    Next,
    Outcome,
    RaiseCounters,
    Refreshed,
    RefreshPosition,
    ReviewLinks,
    WakeAt,
    Woken,
)
from atoll.region.group_commit import GroupCommit
from atoll.replication.signal import Signal
from atoll.store.port import Store

State = TypeVar("State")
Event = TypeVar("Event")
Work = Callable[[], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class World:
    """What effects act on."""

    store: Store
    group_commit: GroupCommit
    review_links: Callable[[], None]
    forked_entry: Callable[[], Awaitable[str]]

    def perform(self, effect: Effect) -> Work | None:
        """Do it, or return what does it and has to be waited for."""
        match effect:
            case ReviewLinks():
                self.review_links()
                return None
            case RefreshPosition():
                return self._refresh
            case AwaitCovered(vector):
                return partial(self._covered, vector)
            case CompareHistories():
                return self._compare
            case RaiseCounters(counters):
                return partial(self._raise, counters)
            case WakeAt():
                raise AssertionError("a driver keeps its own time")

    async def read_counters(self, names: Iterable[str]) -> CountersRead:
        """What a protocol is opened with. Raises what the store raises."""
        return CountersRead({name: await self.store.counter(name) for name in names})

    async def _refresh(self) -> Outcome:
        await self.group_commit.refresh()
        return Refreshed(self.group_commit.vector)

    async def _covered(self, vector: Mapping[str, int]) -> Outcome:
        await self.group_commit.covered(vector)
        return Covered()

    async def _compare(self) -> Outcome:
        return Compared(await self.forked_entry())

    async def _raise(self, counters: Mapping[str, int]) -> Outcome:
        for name, value in counters.items():
            await self.store.raise_counter(name, value)
        return CountersRaised(counters)


class Driver(Generic[State, Event]):
    """Of one protocol of one node. `post` events at any time, and `run` it."""

    def __init__(
        self,
        state: State,
        step: Callable[[State, Event | Outcome, float], Next[State]],
        world: World,
    ) -> None:
        self.state = state
        self.changed = Signal()
        """Notified after each step that changed the state."""
        self._step = step
        self._world = world
        self._wake_s = math.inf
        self._to_do: list[tuple[Effect, Work]] = []
        self._posted = asyncio.Event()

    def post(self, event: Event | Outcome) -> None:
        """Take the step that the event leads to."""
        before = self.state
        self.state, effects = self._step(before, event, asyncio.get_running_loop().time())
        for effect in effects:
            if isinstance(effect, WakeAt):
                self._wake_s = effect.at_s
                self._posted.set()
            elif (work := self._world.perform(effect)) is not None:
                self._to_do.append((effect, work))
                self._posted.set()
        if self.state is not before:
            self.changed.notify()

    async def until(self, true: Callable[[State], bool]) -> None:
        """Wait until that is so of the state."""
        while not true(self.state):
            await self.changed.wait()

    async def run(self) -> None:
        """For ever. Ends with the exception of a defect that a step or an effect meets."""
        running: dict[type[Effect], asyncio.Task[None]] = {}
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
        self._wake_s = math.inf
        self.post(Woken())

    async def _perform(self, effect: Effect, work: Work) -> None:
        try:
            outcome = await work()
        except AtollError as error:
            outcome = Failed(effect, error)
        self.post(outcome)
