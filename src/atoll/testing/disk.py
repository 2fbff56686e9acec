"""A disk that survives its node, and fails in the ways in which disks do; or a database behind a network."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

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
    lying: bool = False
    """Commits return before they are durable: a crash loses all since `sync`. Never a healthy disk."""


class SimulatedDisk:
    """What a region has on disk, across its node's runs."""

    def __init__(self, region: str, random: Random, killed: Callable[[str], None]) -> None:
        """`killed(region)` is called when the node dies inside a commit."""
        self.region = region
        self.trip_s: float | None = None
        """None for an embedded store, which never suspends. Else the database lies behind a network: each call to it
        gives way to others, and takes up to so long to get there, and its answer to come back."""
        self.faults = DiskFaults()
        self.store = MemoryTables()
        self.commits = 0
        self.observers: list[Observer] = []
        self._random = random
        self._killed = killed
        self._synced: MemoryTables | None = None

    def mount(self, life: Life) -> MountedDisk:
        """The store for one run of the node."""
        if self._synced is not None:
            self.store, self._synced = self._synced, None
        return MountedDisk(self, life)

    def commit(self, life: Life, commit: Commit) -> None:
        faults, draw = self.faults, self._random.random
        self._refuse()
        if faults.kill_before and draw() < faults.kill_before:
            self._die(life)
        if faults.lying and (self._synced is None or self.commits % 16 == 0):
            self._synced = copy.deepcopy(self.store)
        self.store.commit(commit)
        self.commits += 1
        if faults.sync_s and self.trip_s is None:
            life.occupy(faults.sync_s)
        for observer in self.observers:
            observer(self.region, commit)
        if faults.kill_after and draw() < faults.kill_after:
            self._die(life)

    async def call(self, life: Life, method: str, *args: Any, **kwargs: Any) -> Any:
        """Whatever is no commit."""
        self.check(life)
        await self.travel(writes=method in _WRITES)
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
        self.store.refusal = faults.refusal or (
            "input/output error" if faults.failing and self._random.random() < faults.failing else ""
        )

    def _die(self, life: Life) -> None:
        self._killed(self.region)
        raise NodeKilled(self.region)


class MountedDisk:
    """`Store` for one run of a node; once the node is dead it refuses everything."""

    __slots__ = ("_disk", "_life")
    warning = ""

    def __init__(self, disk: SimulatedDisk, life: Life) -> None:
        self._disk = disk
        self._life = life

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._disk.call, self._life, name)

    def begin(self, wanted: Wanted) -> MountedTurn:
        return MountedTurn(self._disk, self._life, wanted)

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """Nothing: every scan is in memory."""

    def follow(self, follower: Callable[[Mapping[str, int]], None]) -> None:
        """There are no other nodes."""

    async def lease(self, names: Sequence[str], for_s: float) -> frozenset[str]:
        return frozenset(names)

    async def checkpoint(self) -> None:
        """Nothing to do."""

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
