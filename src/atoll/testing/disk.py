"""A disk that survives its node, and fails in the ways in which disks do; or a database behind a network."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from atoll.errors import Indefinite, StoreError, StoreUnreachable
from atoll.store.memory import MemoryTables, MemoryTurn
from atoll.store.port import AuditRow, Commit, Shape, Wanted
from atoll.testing.virtual_time import Life, NodeKilled

Observer = Callable[[str, Commit], None]
"""Told the region and each commit once it is durable; what it raises ends the simulation."""

_WRITES = ("open_collections", "raise_counter", "advance_counter", "forget")


@dataclass(slots=True)
class DiskFaults:
    """What the disk does wrong at present."""

    refusal: str = ""
    """Why every write is refused, as on a full disk; empty while it takes them."""
    failing: float = 0.0
    """Probability that a single write is refused."""
    sync_s: float = 0.0005
    """How long a commit takes; an embedded store's node does nothing else meanwhile."""
    kill_before: float = 0.0
    """Probability that the node dies before a commit is durable: nothing of it is kept."""
    kill_after: float = 0.0
    """Probability that it dies once the commit is durable, and before anyone was told."""
    cut: float = 0.0
    """Probability that the connection breaks on either way of a call, where there is one."""
    tear: float = 0.0
    """Probability that the power goes out inside a commit, between two writes of bytes: those that were not synced
    are lost or torn. Only real files (`Cluster(files=True)`) have such bytes."""
    lying: bool = False
    """Commits return before they are durable: a crash loses all since `sync`. Never a healthy disk."""


class Medium(Protocol):
    """What the bytes lie on."""

    store: Any
    """What `MemoryTables` offers: for the region's turns, and for checkers that look at it from outside."""

    @property
    def dead(self) -> bool:
        """Whether the power went out inside a write."""

    def die_within(self, steps: int) -> None:
        """Let the power go out at one of the next writes and syncs."""

    def spare(self) -> None:
        """Take that back."""

    def recover(self, random: Random) -> None:
        """After a crash: bring back what the disk kept."""

    def checkpoint(self) -> None:
        """As `Store.checkpoint`, at once."""

    def pretend(self, sync: bool) -> None:
        """Keep nothing of what is committed from now on, until `sync` is said."""

    def lose(self) -> None:
        """Put in an empty disk."""

    def close(self) -> None:
        """Dispose of everything."""


class MemoryMedium:
    """Dictionaries: each commit is whole, or is not there."""

    dead = False

    def __init__(self) -> None:
        self.store = MemoryTables()
        self.synced: MemoryTables | None = None
        """What a lying disk will come back with."""

    def die_within(self, steps: int) -> None:
        """There are no bytes to tear."""

    def spare(self) -> None:
        """Nothing was begun."""

    def recover(self, random: Random) -> None:
        if self.synced is not None:
            self.store, self.synced = self.synced, None

    def checkpoint(self) -> None:
        """Nothing to do."""

    def pretend(self, sync: bool) -> None:
        if sync or self.synced is None:
            self.synced = copy.deepcopy(self.store)

    def lose(self) -> None:
        self.store, self.synced = MemoryTables(), None

    def close(self) -> None:
        """Nothing outlives the process."""


class SimulatedDisk:
    """What a region has on disk, across its node's runs."""

    def __init__(self, region: str, random: Random, killed: Callable[[str], None]) -> None:
        """`killed(region)` is called when the node dies inside a commit."""
        self.region = region
        self.trip_s: float | None = None
        """None for an embedded store, which never suspends. Else the database lies behind a network: each call to it
        gives way to others, and takes up to so long to get there, and its answer to come back."""
        self.faults = DiskFaults()
        self.medium: Medium = MemoryMedium()
        self.commits = 0
        self.lost = False
        """Whether it was ever replaced by an empty one."""
        self.observers: list[Observer] = []
        self.replaced: Callable[[str], None] | None = None
        """Told the region when an empty disk takes this one's place."""
        self._random = random
        self._killed = killed
        self._imposed = ""
        self._doubtful: Commit | None = None
        """The commit in which the power went out: it may be durable."""
        self._fresh = True

    @property
    def store(self) -> Any:
        """What lies on the disk."""
        return self.medium.store

    def mount(self, life: Life) -> MountedDisk:
        """The store for one run of the node."""
        if not self._fresh:
            self.medium.recover(self._random)
        self._fresh = False
        doubtful, self._doubtful = self._doubtful, None
        if doubtful is not None:
            held = self.store.positions()
            if doubtful.segments and all(held.get(o, 0) >= seq for o, seq in doubtful.positions.items()):
                self._tell(doubtful)
        return MountedDisk(self, life)

    def lose(self) -> None:
        """Replace it by an empty one, while its node is down."""
        self.medium.lose()
        self.lost, self._doubtful, self._fresh = True, None, True
        if self.replaced is not None:
            self.replaced(self.region)

    def commit(self, life: Life, commit: Commit) -> None:
        faults, draw = self.faults, self._random.random
        self._refuse()
        if faults.kill_before and draw() < faults.kill_before:
            self._die(life)
        if faults.lying:
            self.medium.pretend(self.commits % 16 == 0)
        if faults.tear and draw() < faults.tear:
            self.medium.die_within(self._random.randint(1, 40))
        try:
            self.store.commit(commit)
        except (StoreError, Indefinite):
            if self.medium.dead:
                self._doubtful = commit
                self._die(life)
            self.medium.spare()
            raise
        if self.medium.dead:  # after the commit, while the log was copied
            self._tell(commit)
            self._die(life)
        self.medium.spare()
        self.commits += 1
        if faults.sync_s and self.trip_s is None:
            life.occupy(faults.sync_s)
        self._tell(commit)
        if faults.kill_after and draw() < faults.kill_after:
            self._die(life)

    def _tell(self, commit: Commit) -> None:
        for observer in self.observers:
            observer(self.region, commit)

    async def call(self, life: Life, method: str, *args: Any, **kwargs: Any) -> Any:
        """Whatever is no commit."""
        self.check(life)
        await self.travel(writes=method in _WRITES)
        self.check(life)
        if method in _WRITES:
            self._refuse()
        result = getattr(self.store, method)(*args, **kwargs)
        await self.travel(writes=method in _WRITES)
        return result

    async def travel(self, *, writes: bool, extra_s: float = 0.0) -> None:
        """One way between node and database."""
        if self.trip_s is None:
            return
        if self.faults.cut and self._random.random() < self.faults.cut:
            if writes:
                raise Indefinite(
                    f"the connection to the database of {self.region} broke: it may have happened"
                )
            raise StoreUnreachable(f"the connection to the database of {self.region} broke")
        await asyncio.sleep(self._random.choice((0.0, self.trip_s, self.trip_s / 4)) + extra_s)

    def check(self, life: Life) -> None:
        if life.over:
            raise StoreError(f"this run of {self.region} is over")

    def _refuse(self) -> None:
        faults = self.faults
        imposed = faults.refusal or (
            "input/output error" if faults.failing and self._random.random() < faults.failing else ""
        )
        if imposed or self.store.refusal == self._imposed:  # it may have reasons of its own
            self.store.refusal = self._imposed = imposed

    def _die(self, life: Life) -> None:
        self._killed(self.region)
        raise NodeKilled(self.region)


class MountedDisk:
    """`Store` for one run of a node; once the node is dead it refuses everything."""

    __slots__ = ("_disk", "_life")
    warning = ""
    holder = ""

    def __init__(self, disk: SimulatedDisk, life: Life) -> None:
        self._disk = disk
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._disk.call, self._life, name)

    def begin(self, wanted: Wanted) -> MountedTurn:
        return MountedTurn(self._disk, self._life, wanted)

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """Nothing: every scan is in memory."""

    def follow(
        self, follower: Callable[[Mapping[str, int]], None], turned: Callable[[str], None] | None = None
    ) -> None:
        """There are no other nodes."""

    async def history(self) -> str:
        """A disk has only one."""
        return ""

    async def history_taken_up(self) -> str:
        return ""

    async def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        """There is nothing else to take up."""

    async def holders(self) -> Mapping[str, str]:
        return {}

    async def give_back(self, names: Sequence[str]) -> None:
        """Nobody else could hold them."""

    async def lease(self, names: Sequence[str], for_s: float) -> frozenset[str]:
        return frozenset(names)

    async def checkpoint(self) -> None:
        self._disk.medium.checkpoint()

    async def close(self) -> None:
        """The disk outlives this run."""


class MountedTurn(MemoryTurn):
    """A turn over the connection to the database, if there is one."""

    __slots__ = ("_disk", "_life")

    def __init__(self, disk: SimulatedDisk, life: Life, wanted: Wanted) -> None:
        super().__init__(disk.store, wanted)
        self._disk = disk
        self._life = life

    async def __aenter__(self) -> MountedTurn:
        self._disk.check(self._life)
        await self._disk.travel(writes=False)
        await super().__aenter__()
        self.history = ""  # a disk has only one
        await self._disk.travel(writes=False)
        return self

    async def recorded(self, collection: str, keys: Sequence[str], limit: int) -> dict[str, list[AuditRow]]:
        await self._disk.travel(writes=False)
        found = await super().recorded(collection, keys, limit)
        await self._disk.travel(writes=False)
        return found

    async def commit(self, commit: Commit) -> None:
        disk = self._disk
        disk.check(self._life)
        await disk.travel(writes=True, extra_s=disk.faults.sync_s)
        self.check()
        disk.commit(self._life, commit)
        await disk.travel(writes=True)
