"""What may keep a node from reading or writing: start-up position check, restore recovery, failover recovery.

The protocols are those of the package `recovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

from atoll.protocol import hear
from atoll.recovery import failover, restore, startup_check
from atoll.recovery.failover import FailoverState
from atoll.recovery.restore import RestoreState
from atoll.recovery.startup_check import StartupState
from atoll.region.driver import Driver, Performer


class RestoreRecovery:
    """Of one region to its peers. `open` it, `run` it."""

    def __init__(self, region: str, peers: Iterable[str], performer: Performer) -> None:
        self._performer = performer
        self._driver = Driver(RestoreState(region, frozenset(peers)), restore.step, performer)
        self.run = self._driver.run

    async def open(self) -> None:
        """Look whether the store was restored since it last served. Raises what the store raises."""
        self._driver.post(await self._performer.read_counters(restore.counters(self._driver.state.peers)))

    def members_changed(self, peers: frozenset[str]) -> None:
        """These are the peers by now."""
        self._driver.post(hear.MembersChanged(peers))

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer announced what it has."""
        self._driver.post(restore.Heard(peer, vector))

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""
        return self._driver.state.pending

    @property
    def reason(self) -> str:
        """What is waited for."""
        return self._driver.state.reason

    def reads(self) -> str | None:
        """Why nothing is read or written here; None once the region has what its peers had."""
        return f"{self.reason}: it serves nothing until then" if self.pending else None


class StartupCheck:
    """Of one node. `open` it, `run` it."""

    def __init__(self, region: str, peers: Iterable[str], performer: Performer, *, patience_s: float) -> None:
        self._performer = performer
        state = StartupState(region, frozenset(peers), patience_s)
        self._driver = Driver(state, startup_check.step, performer)
        self.run = self._driver.run

    async def open(self) -> None:
        """Take up what peers were heard to hold, and begin to wait for them. Raises what the store raises."""
        self._driver.post(
            await self._performer.read_counters(startup_check.counters(self._driver.state.peers))
        )
        self._driver.post(startup_check.Started())

    def members_changed(self, peers: frozenset[str]) -> None:
        """These are the peers by now."""
        self._driver.post(hear.MembersChanged(peers))

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer announced what it has."""
        own = vector.get(self._driver.state.region, 0)
        self._driver.post(startup_check.Heard(peer, own, self._performer.own))

    def rewound(self) -> None:
        """The database is another one: every peer is heard anew."""
        self._driver.post(startup_check.Rewound())

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good, with what it alone held."""
        self._driver.post(startup_check.Forgotten(peer))

    async def wait(self) -> None:
        """Until the peers were heard, or for as long as that may take."""
        await self._driver.until(lambda state: state.over)

    async def passed(self) -> None:
        """Wait before a write as long as `wait` does. Raises what the store raises."""
        await self.wait()
        if self.lacks_own:
            # Another node of this region may have written them a moment ago.
            await self._performer.group_commit.progress.refresh()

    def writes(self) -> str | None:
        """Why no write may be taken: peers were not heard, or hold entries that this region has lost."""
        return None if self.knows_its_own else self.reason

    @property
    def over(self) -> bool:
        """Whether every peer was heard, or waited for long enough."""
        return self._driver.state.over

    @property
    def recovering(self) -> bool:
        """Whether peers are asked for this region's own entries."""
        return self._driver.state.recovering

    @property
    def lacks_own(self) -> bool:
        return self._driver.state.own_elsewhere > self._performer.own

    @property
    def knows_its_own(self) -> bool:
        """Whether it has heard its peers, and holds every entry of its own that they have."""
        return self.over and not self.lacks_own

    @property
    def reason(self) -> str:
        """What is waited for."""
        return self._driver.state.reason


class FailoverRecovery:
    """Of one node. `open` it, `run` it; `history_changed` may be called at any time."""

    def __init__(self, region: str, peers: Iterable[str], performer: Performer, *, patience_s: float) -> None:
        self._store = performer.store
        self._performer = performer
        state = FailoverState(region, frozenset(peers), patience_s)
        self._driver = Driver(state, failover.step, performer)
        self.run = self._driver.run

    async def open(self) -> None:
        """Look whether the database is still in the history that the region took up. Raises what the store raises."""
        history, taken_up = await self._store.history(), await self._store.history_taken_up()
        self._driver.post(failover.Opened(history, taken_up, self._performer.own))

    def history_changed(self, history: str, *, lossy: bool = False) -> None:
        """The database is in this history now. `lossy`: it lacks what this node had seen."""
        self._driver.post(failover.HistoryChanged(history, lossy))

    def members_changed(self, peers: frozenset[str]) -> None:
        """These are the peers by now."""
        self._driver.post(hear.MembersChanged(peers))

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer announced what it has stored, on a link that was opened since."""
        self._driver.post(failover.Heard(peer, vector.get(self._driver.state.region, 0)))

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good: nobody waits for it."""
        self._driver.post(failover.Forgotten(peer))

    @property
    def state(self) -> FailoverState:
        return self._driver.state

    @property
    def pending(self) -> bool:
        return self._driver.state.pending

    @property
    def reason(self) -> str:
        """What is waited for."""
        return self._driver.state.reason

    async def wait(self) -> None:
        """Until writes may be taken, or for longer than a mere restart takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.state.patience_s + 2 * failover.RETRY_S):
                await self._driver.until(lambda state: not state.pending)

    def writes(self) -> str | None:
        """Why no write may be taken; None once the region has what its peers had."""
        return f"{self.reason}: it accepts no writes until then" if self.pending else None
