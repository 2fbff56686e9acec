"""A disk that survives its node, and fails in the ways in which disks do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.errors import StoreError
from atoll.store.memory import MemoryStore
from atoll.store.port import Commit
from atoll.testing.virtual_time import Life, NodeKilled

Observer = Callable[[str, Commit], None]
"""Told the region and each commit once it is durable; what it raises ends the simulation."""


@dataclass(slots=True)
class DiskFaults:
    """What the disk does wrong at present."""

    refusal: str = ""
    """Why every write is refused, as on a full disk; empty while it takes them."""
    failing: float = 0.0
    """Probability that a single write is refused."""
    sync_s: float = 0.0005
    """How long a commit takes, during which its node does nothing else."""
    kill_before: float = 0.0
    """Probability that the node dies before a commit is durable: nothing of it is kept."""
    kill_after: float = 0.0
    """Probability that it dies once the commit is durable, and before anyone was told."""
    lying: bool = False
    """Commits return before they are durable: a crash loses all since `sync`. Never a healthy disk."""


class SimulatedDisk:
    """What a region has on disk, across its node's runs."""

    def __init__(self, region: str, random: Random, killed: Callable[[str], None]) -> None:
        """`killed(region)` is called when the node dies inside a commit."""
        self.region = region
        self.faults = DiskFaults()
        self.store = MemoryStore()
        self.commits = 0
        self.observers: list[Observer] = []
        self._random = random
        self._killed = killed
        self._synced: MemoryStore | None = None

    def mount(self, life: Life) -> MountedDisk:
        """The store for one run of the node."""
        if self._synced is not None:
            self.store, self._synced = self._synced, None
        self.store.reopen()
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
        if faults.sync_s:
            life.occupy(faults.sync_s)
        for observer in self.observers:
            observer(self.region, commit)
        if faults.kill_after and draw() < faults.kill_after:
            self._die(life)

    def write(self, life: Life, method: str, *args: Any, **kwargs: Any) -> Any:
        """A write that is no commit: a counter, or retention."""
        self._refuse()
        return getattr(self.store, method)(*args, **kwargs)

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

    def __init__(self, disk: SimulatedDisk, life: Life) -> None:
        self._disk = disk
        self._life = life

    def __getattr__(self, name: str) -> Any:
        self._check()
        return getattr(self._disk.store, name)

    def commit(self, commit: Commit) -> None:
        self._check()
        self._disk.commit(self._life, commit)

    def raise_counter(self, name: str, value: int) -> None:
        self._check()
        self._disk.write(self._life, "raise_counter", name, value)

    def forget(self, **limits: int) -> int:
        self._check()
        removed: int = self._disk.write(self._life, "forget", **limits)
        return removed

    def close(self) -> None:
        """The disk outlives this run."""

    def _check(self) -> None:
        if self._life.over:
            raise StoreError(f"this run of {self._disk.region} is over")
