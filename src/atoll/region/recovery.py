"""What may keep a node from reading or writing: start-up position check, restore recovery, failover recovery.

The protocols are those of the package `recovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from atoll.causality.origin import Origin
from atoll.protocol import port
from atoll.recovery import failover, restore, startup_check
from atoll.recovery.failover import FailoverState
from atoll.recovery.numbering import STATE, numbering_of
from atoll.recovery.restore import RESTORED, RestoreState
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
    """Of one node. `open` it, `run` it."""

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        performer: Performer,
        closing: Callable[[], None],
        *,
        patience_s: float,
        founding: bool,
    ) -> None:
        """`founding`: the deployment is new, so that an empty store has lost nothing."""
        state = StartupState(region, frozenset(peers), patience_s)
        super().__init__(state, startup_check.step, performer, closing)
        self._founding = founding
        self.former: tuple[Origin, ...] = ()
        """The region's earlier origins, once nothing of them is still to come."""
        self._recovered = False

    async def open(self) -> None:
        """Take up under which incarnation the region numbers, or begin one. Raises what the store raises."""
        store, own = self._node.store, self._node.own
        numbering = numbering_of(await store.state(*STATE))
        restored_ms = await store.counter(RESTORED)
        self.post(startup_check.Opened(numbering, restored_ms, own, self._founding))

    def replaced(self) -> None:
        """The database is another one: it says under which incarnation the region numbers."""
        self.post(startup_check.Replaced())

    async def wait(self) -> None:
        """Until entries may be numbered, as long as that may take; or it is certain that they may not."""
        await self.until(lambda state: not state.pending or state.refused)

    def writes(self) -> str | None:
        """Why no write may be taken: it is not known how to number it."""
        return f"{self.state.reason}: it accepts no writes until then" if self.pending else None

    async def wait_recovered(self) -> None:
        """Until what earlier incarnations wrote is here, or for longer than peers are waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.state.patience_s + 2 * startup_check.RETRY_S):
                await self.until(lambda state: state.recovered)

    def orders(self) -> str | None:
        """Why the region decides nothing for documents that it owns."""
        return None if self._recovered else f"{self.state.reason}: it orders no writes until then"

    def ends(self) -> dict[str, int]:
        """The region's former incarnations, once nothing of them is still to come, and their last entries."""
        own = self._node.own if self.former else {}
        return {origin: own.get(origin, 0) for origin in self.former}

    def _stepped(self, before: StartupState) -> None:
        super()._stepped(before)
        state = self.state
        self._recovered = state.recovered
        if not state.settled:
            self.former = ()
        elif not self.former or state.numbering is not before.numbering:
            known = {state.region, *state.announced, *self._node.own} - {state.origin}
            self.former = tuple(sorted(map(Origin, known)))


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
