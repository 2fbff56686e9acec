"""What may keep a node from reading or writing: start-up position check, restore recovery, failover recovery.

The protocols are those of the package `recovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from atoll.protocol import port
from atoll.recovery import failover, restore, startup_check
from atoll.recovery.failover import FailoverState
from atoll.recovery.restore import RestoreState
from atoll.recovery.startup_check import StartupState
from atoll.region.driver import Driver, Performer


class Closing(Protocol):
    """The state of a protocol that closes reads, or writes."""

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""

    @property
    def reason(self) -> str:
        """What is waited for."""


State = TypeVar("State", bound=Closing)
Event = TypeVar("Event")


class Recovery(Driver[State, Event]):
    """A protocol with a gate. Whoever keeps the gates is told when it closes."""

    def __init__(
        self,
        state: State,
        step: Callable[[State, Event | port.Outcome, float], port.Next[State]],
        performer: Performer,
        closing: Callable[[], None],
    ) -> None:
        """`closing` is called at the step that closes what was open, before anything else is awaited."""
        super().__init__(state, step, performer)
        self._node = performer
        self._closing = closing

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""
        return self.state.pending

    def _stepped(self, before: State) -> None:
        if self.state.pending and not before.pending:
            self._closing()


class RestoreRecovery(Recovery[RestoreState, restore.Event]):
    """Of one region to its peers. `open` it, `run` it."""

    def __init__(
        self, region: str, peers: Iterable[str], performer: Performer, closing: Callable[[], None]
    ) -> None:
        super().__init__(RestoreState(region, frozenset(peers)), restore.step, performer, closing)

    async def open(self) -> None:
        """Look whether the store was restored since it last served. Raises what the store raises."""
        self.post(await self._node.read_counters(restore.counters(self.state.peers)))

    def reads(self) -> str | None:
        """Why nothing is read or written here; None once the region has what its peers had."""
        return f"{self.state.reason}: it serves nothing until then" if self.pending else None


class StartupCheck(Recovery[StartupState, startup_check.Event]):
    """Of one node. `open` it, `run` it.

    It also closes when the region's own position goes back: `wiring` tells the gates.
    """

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        performer: Performer,
        closing: Callable[[], None],
        *,
        patience_s: float,
    ) -> None:
        state = StartupState(region, frozenset(peers), patience_s)
        super().__init__(state, startup_check.step, performer, closing)

    async def open(self) -> None:
        """Take up what peers were heard to hold, and begin to wait for them. Raises what the store raises."""
        self.post(await self._node.read_counters(startup_check.counters(self.state.peers)))
        self.post(startup_check.Started())

    def rewound(self) -> None:
        """The database is another one: every peer is heard anew."""
        self.post(startup_check.Rewound())

    async def wait(self) -> None:
        """Wait for the peers, as long as that may take, before a write. Raises what the store raises."""
        await self.until(lambda state: not state.pending)
        if self.lacks_own:
            # Another node of this region may have written them a moment ago.
            await self._node.group_commit.progress.refresh()

    def writes(self) -> str | None:
        """Why no write may be taken: peers were not heard, or hold entries that this region has lost."""
        return None if self.knows_its_own else self.state.reason

    @property
    def lacks_own(self) -> bool:
        return self.state.own_elsewhere > self._node.own

    @property
    def knows_its_own(self) -> bool:
        """Whether it has heard its peers, and holds every entry of its own that they have."""
        return not self.pending and not self.lacks_own

    def _stepped(self, before: StartupState) -> None:
        super()._stepped(before)
        if before.own_elsewhere <= self._node.own < self.state.own_elsewhere:
            self._closing()


class FailoverRecovery(Recovery[FailoverState, failover.Event]):
    """Of one node. `open` it, `run` it; `history_changed` may be called at any time."""

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        performer: Performer,
        closing: Callable[[], None],
        *,
        patience_s: float,
    ) -> None:
        state = FailoverState(region, frozenset(peers), patience_s)
        super().__init__(state, failover.step, performer, closing)

    async def open(self) -> None:
        """Look whether the database is still in the history that the region took up. Raises what the store raises."""
        store = self._node.store
        history, taken_up = await store.history(), await store.history_taken_up()
        self.post(failover.Opened(history, taken_up, self._node.own))

    def history_changed(self, history: str, *, lossy: bool = False) -> None:
        """The database is in this history now. `lossy`: it lacks what this node had seen."""
        self.post(failover.HistoryChanged(history, lossy))

    async def wait(self) -> None:
        """Until writes may be taken, or for longer than a mere restart takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.state.patience_s + 2 * failover.RETRY_S):
                await self.until(lambda state: not state.pending)

    def writes(self) -> str | None:
        """Why no write may be taken; None once the region has what its peers had."""
        return f"{self.state.reason}: it accepts no writes until then" if self.pending else None
