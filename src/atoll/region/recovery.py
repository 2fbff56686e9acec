"""What may keep a node from reading or writing after a start: restore recovery and the start-up position check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atoll.errors import Unavailable
from atoll.recovery import restore, startup_check
from atoll.recovery.restore import RestoreState
from atoll.recovery.startup_check import StartupState
from atoll.region.driver import Driver, World


class RestoreRecovery:
    """Of one region to its peers. `open` it, `run` it."""

    def __init__(self, region: str, peers: Iterable[str], world: World) -> None:
        self._world = world
        self._driver = Driver(RestoreState(region, frozenset(peers)), restore.step, world)
        self.run = self._driver.run

    async def open(self) -> None:
        """Look whether the store was restored since it last served. Raises what the store raises."""
        self._driver.post(await self._world.read_counters(restore.counters(self._driver.state.peers)))

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

    def check(self) -> None:
        """Raises Unavailable while the region holds back."""
        if self.pending:
            raise Unavailable(f"{self.reason}: it serves nothing before", region=self._driver.state.region)


class StartupCheck:
    """Of one node. `open` it, `run` it."""

    def __init__(self, region: str, peers: Iterable[str], world: World, *, patience_s: float) -> None:
        self._world = world
        state = StartupState(region, frozenset(peers), patience_s)
        self._driver = Driver(state, startup_check.step, world)
        self.run = self._driver.run

    async def open(self) -> None:
        """Take up what peers were heard to hold, and begin to wait for them. Raises what the store raises."""
        self._driver.post(await self._world.read_counters(startup_check.counters(self._driver.state.peers)))
        self._driver.post(startup_check.Started())

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer announced what it has."""
        own = vector.get(self._driver.state.region, 0)
        self._driver.post(startup_check.Heard(peer, own, self._here))

    def rewound(self) -> None:
        """The database is another one: every peer is heard anew."""
        self._driver.post(startup_check.Rewound())

    def forget(self, peer: str) -> None:
        """The operator says that this peer is gone for good, with what it alone held."""
        self._driver.post(startup_check.Forgotten(peer))

    async def wait(self) -> None:
        """Until the peers were heard, or for as long as that may take."""
        await self._driver.until(lambda state: state.over)

    async def check(self) -> None:
        """Raises Unavailable while peers hold entries that this region has lost."""
        if self.lacks_own:
            # Another node of this region may have written them a moment ago.
            await self._world.group_commit.refresh()
        if self.lacks_own:
            raise Unavailable(self.reason)

    @property
    def _here(self) -> int:
        return self._world.group_commit.vector.get(self._driver.state.region, 0)

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
        return self._driver.state.own_elsewhere > self._here

    @property
    def knows_its_own(self) -> bool:
        """Whether it has heard its peers, and holds every entry of its own that they have."""
        return self.over and not self.lacks_own

    @property
    def reason(self) -> str:
        """What is waited for."""
        return self._driver.state.reason
