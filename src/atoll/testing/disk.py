"""A disk that survives its node, and fails in the ways in which disks do.

It may also be a database behind a network, which several nodes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Concatenate, Literal, ParamSpec, TypeVar

from atoll.causality.types import Generation
from atoll.errors import AtollError, Indefinite, SerializationConflict, StoreError, StoreUnreachable
from atoll.store.memory.store import MemoryStore, MemoryTransaction, TablesStore
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Commit, Segment, Store, Wanted
from atoll.store.refusals import lost_to_another_node
from atoll.testing.torn_files import TornMedium
from atoll.testing.transaction_queue import TransactionQueue
from atoll.testing.virtual_time import Life, NodeKilled

P = ParamSpec("P")
T = TypeVar("T")

Observer = Callable[[str, Commit], None]
"""Told the region and each commit once it is durable; what it raises ends the simulation."""

Replaced = Literal["lost", "restored", "failed over"]
"""How other data came into the place of a region's."""

Follower = Callable[[Mapping[str, int]], None]

_POLL_S = 1.0
"""How often a node asks what others have committed, in case it was not told."""
_CROWDED_S = 5.0
"""So long after a node lost a transaction it waits in line for its next ones."""


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
    dies: Callable[[Commit, bool], bool] = lambda commit, durable: False
    """Asked before each commit, and once it is durable: whether the node dies there."""
    cut: float = 0.0
    """Probability that the connection breaks on either way of a call, where there is one."""
    tear: float = 0.0
    """Probability that the power goes out inside a commit, between two writes of bytes: those that were not synced
    are lost or torn. Only real files (`Cluster(files=True)`) have such bytes."""
    untold: float = 0.0
    """Probability that a node is not told that another one has committed."""
    told_late_s: float = 0.0
    """Up to so much later than the commit it is told, beside the way to it."""
    lying: bool = False
    """Commits return before they are durable: a crash loses all since `sync`. Never a healthy disk."""


@dataclass(slots=True)
class Connection:
    """One node's way to the database."""

    holder: str = ""
    """The node's name: leases are its own."""
    trip_s: float | None = None
    """Instead of the disk's own `trip_s`."""
    cut: float = 0.0
    """Probability that it breaks on either way of a call; beside what befalls the connections of all nodes."""

    def __deepcopy__(self, memo: object) -> Connection:
        """A standby knows by whom leases are held."""
        return self


class MemoryMedium:
    """Dictionaries: each commit is whole, or is not there. `TornMedium` has the same methods."""

    dead = False

    def __init__(self) -> None:
        self.store = MemoryTables()
        """For the region's transactions, and for checkers that look at it from outside."""
        self.store.history = self.store.history_taken_up = "simulated/1/1"
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
        history = self.store.history
        self.store, self.synced = MemoryTables(), None
        self.store.history = self.store.history_taken_up = history

    def opened(self) -> Store:
        """What lies there, for whoever makes a copy of it or fills it, beside the nodes."""
        return MemoryStore(self.store)

    def copied(self) -> MemoryTables:
        return self.store.copied()

    def fail_over(self, standby: MemoryTables, history: str) -> None:
        self.store.fail_over(standby, history)

    def close(self) -> None:
        """Nothing outlives the process."""


class SimulatedDisk:
    """What a region has on disk, across its nodes' runs."""

    def __init__(
        self, region: str, random: Random, killed: Callable[[str], None], *, shared: bool = False
    ) -> None:
        """`killed(node)` is called when a node dies inside a commit; `shared`: it is a database of several nodes."""
        self.region = region
        self.shared = shared
        self.queue = TransactionQueue()
        """Of the nodes that have lost a transaction."""
        self.trip_s: float | None = None
        """None for an embedded store, which never suspends. Else each call to the database gives way to others. It
        takes up to so long to get there, and so does its answer to come back."""
        self.faults = DiskFaults()
        self.medium: MemoryMedium | TornMedium = MemoryMedium()
        """What the bytes lie on."""
        self.commits = 0
        self.lost = False
        """Whether it was ever replaced by an empty one."""
        self.failovers = 0
        """Each breaks all connections to the database."""
        self.standby: MemoryTables | None = None
        """Of a database: what its standby has, once that gets nothing more."""
        self.observers: list[Observer] = []
        self.truncated: Callable[[str, list[Segment]], None] | None = None
        """Told the region what was cut from its journal."""
        self.replaced: Callable[[str, Mapping[str, int], Replaced], None] | None = None
        """Told the region, the vector of what takes the place of all that was on the disk, and how that came."""
        self.random = random
        self._killed = killed
        self._imposed = ""
        self._doubtful: Commit | None = None
        """The commit in which the power went out: it may be durable."""
        self._fresh = True
        self._mounted: list[MountedDisk] = []

    @property
    def store(self) -> MemoryTables:
        """What lies on the disk."""
        return self.medium.store

    def mount(self, life: Life, connection: Connection | None = None) -> MountedDisk:
        """The store for one run of a node."""
        self._mounted = [each for each in self._mounted if not each.life.over]
        if not self._fresh and not self._mounted:
            self.medium.recover(self.random)
        self._fresh = False
        doubtful, self._doubtful = self._doubtful, None
        if doubtful is not None:
            held = self.store.positions()
            if doubtful.segments and all(held.get(o, 0) >= seq for o, seq in doubtful.positions.items()):
                self._tell(doubtful)
        mounted = MountedDisk(self, life, connection or Connection())
        self._mounted.append(mounted)
        return mounted

    def lose(self) -> None:
        """Replace it by an empty one, while its nodes are down."""
        self.empty()
        self.lost = True
        self.tell_replaced("lost")

    def empty(self) -> None:
        """Make room for what is put in its place, while its nodes are down."""
        self.medium.lose()
        self._doubtful, self._fresh = None, True

    def detach_standby(self) -> None:
        """From now on the database's standby gets nothing more."""
        self.standby = self.medium.copied()
        self.standby.refusal = ""

    def fail_over(self) -> None:
        """The primary is dead, and the standby takes its place. Nodes notice when they next ask it for something."""
        if self.standby is None:
            self.detach_standby()
        assert self.standby is not None
        self.failovers += 1
        self.medium.fail_over(self.standby, f"simulated/{self.failovers + 1}/1")
        self.standby, self._imposed = None, ""
        self.tell_replaced("failed over")

    def tell_replaced(self, how: Replaced) -> None:
        """Something else lies on it now."""
        if self.replaced is not None:
            self.replaced(self.region, self.store.positions(), how)

    def perform(
        self, method: Callable[Concatenate[MemoryTables, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A call that is no commit; whoever listens is told what it cut from the journal."""
        listening = self.truncated is not None and method.__name__ == MemoryTables.truncate.__name__
        before = self.store.journal(0, limit=1000) if listening else []
        result: T = getattr(self.store, method.__name__)(*args, **kwargs)
        if self.truncated is not None and before:
            after_id = self.store.journal_extent().after_id
            self.truncated(self.region, [each.segment for each in before if each.id <= after_id])
        return result

    def commit(self, life: Life, commit: Commit) -> None:
        faults, draw = self.faults, self.random.random
        self.refuse()
        if (faults.kill_before and draw() < faults.kill_before) or faults.dies(commit, False):
            self._die(life)
        if faults.lying:
            self.medium.pretend(self.commits % 16 == 0)
        if faults.tear and draw() < faults.tear:
            self.medium.die_within(self.random.randint(1, 40))
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
        if (faults.kill_after and draw() < faults.kill_after) or faults.dies(commit, True):
            self._die(life)

    def _tell(self, commit: Commit) -> None:
        for observer in self.observers:
            observer(self.region, commit)

    def announce(self, source: Life) -> None:
        """The other nodes hear of a commit by `source`: late, or not at all."""
        positions = self.store.positions()
        for mounted in self._mounted:
            if mounted.life is not source and not mounted.life.over:
                mounted.hear(positions)

    def refuse(self) -> None:
        """Let what is written next fail, if the disk does at present."""
        faults = self.faults
        imposed = faults.refusal or (
            "input/output error" if faults.failing and self.random.random() < faults.failing else ""
        )
        if imposed or self.store.refusal == self._imposed:  # it may have reasons of its own
            self.store.refusal = self._imposed = imposed

    def _die(self, life: Life) -> None:
        self._killed(life.name)
        raise NodeKilled(life.name)


class MountedDisk(TablesStore):
    """`Store` for one run of a node; once the node is dead it refuses everything."""

    def __init__(self, disk: SimulatedDisk, life: Life, connection: Connection) -> None:
        self.disk = disk
        self.life = life
        self.connection = connection
        self.holder = life.name
        self.lessee = connection
        self.run = life.number
        self.crowded_until_s = 0.0
        """Until then other nodes are likely to come in between."""
        self._followers: list[Follower] = []
        self._history_changed: list[Callable[[str], None]] = []
        self._history = disk.store.history

    def begin(self, wanted: Wanted) -> MountedTransaction:
        return MountedTransaction(self, wanted)

    def follow(self, follower: Follower, history_changed: Callable[[str], None] | None = None) -> None:
        if history_changed is not None:
            self._history_changed.append(history_changed)
        if self.disk.shared:
            self._followers.append(follower)
            self.life.spawn(self._ask_now_and_then(follower), f"{self.life.name}: follows the other nodes")

    async def history(self) -> str:
        await self.positions()
        return self._history

    async def history_taken_up(self) -> str:
        await self.positions()
        return self.disk.store.history_taken_up

    async def holders(self) -> Mapping[str, str]:
        return await super().holders() if self.disk.shared else {}

    async def give_back(self, names: Sequence[str]) -> None:
        if self.disk.shared:
            await super().give_back(names)

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, Generation]:
        if not self.disk.shared:
            return self.disk.store.lease(self.connection, self.run, names, for_s)
        return await super().lease(names, for_s)

    async def checkpoint(self) -> None:
        self.disk.medium.checkpoint()

    async def close(self) -> None:
        """The disk outlives this run."""

    def hear(self, positions: Mapping[str, int]) -> None:
        """Another node has committed; it is not known for sure that this one hears of it."""
        disk = self.disk
        draw = disk.random.random
        for follower in self._followers:
            if draw() >= max(disk.faults.untold, disk.faults.cut, self.connection.cut):
                late_s = self.trip_s() + draw() * disk.faults.told_late_s
                context = self.life.context.copy()
                notice = functools.partial(self._notify, follower, positions, disk.failovers)
                self.life.loop.call_later(late_s, notice, context=context)

    def _notify(self, follower: Follower, positions: Mapping[str, int], failovers: int) -> None:
        if failovers == self.disk.failovers:  # else it went with the connection
            follower(positions)

    async def _ask_now_and_then(self, follower: Follower) -> None:
        while True:
            with contextlib.suppress(AtollError):  # the next time tells
                follower(await self.positions())
            await asyncio.sleep(_POLL_S)

    async def call(
        self,
        writing: bool,
        method: Callable[Concatenate[MemoryTables, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self.check()
        failovers = self.disk.failovers
        await self.travel(writes=writing)
        self.check()
        self.reach(failovers)
        if writing:
            self.disk.refuse()
        result = self.disk.perform(method, *args, **kwargs)
        await self.travel(writes=writing)
        self.hold_on(failovers, writes=writing)
        return result

    def reach(self, failovers: int) -> None:
        """A call that set out after so many failovers arrives. Raises StoreUnreachable where there was another one.

        If another database is there than this node has seen before, it learns so before it learns anything else.
        """
        if failovers != self.disk.failovers:
            raise StoreUnreachable(f"the database of {self.disk.region} died")
        found = self.disk.store.history
        if found != self._history:
            self._history = found
            for changed in self._history_changed:
                changed(found)

    def hold_on(self, failovers: int, *, writes: bool) -> None:
        """The answer of such a call comes back. Raises StoreUnreachable or Indefinite where there was another one."""
        if failovers != self.disk.failovers:
            raise (Indefinite if writes else StoreUnreachable)(f"the database of {self.disk.region} died")

    def trip_s(self) -> float:
        """How long one way to the database takes, at most."""
        own_s = self.connection.trip_s
        return (self.disk.trip_s or 0.0) if own_s is None else own_s

    async def travel(self, *, writes: bool, extra_s: float = 0.0) -> None:
        """One way between node and database."""
        disk = self.disk
        if disk.trip_s is None and self.connection.trip_s is None:
            return
        cut = max(disk.faults.cut, self.connection.cut)
        if cut and disk.random.random() < cut:
            if writes:
                raise Indefinite(
                    f"the connection to the database of {disk.region} broke: it may have happened"
                )
            raise StoreUnreachable(f"the connection to the database of {disk.region} broke")
        trip_s = self.trip_s()
        await asyncio.sleep(disk.random.choice((0.0, trip_s, trip_s / 4)) + extra_s)

    def check(self) -> None:
        """Raises StoreError once this run is over."""
        if self.life.over:
            raise StoreError(f"this run of {self.life.name} is over")


class MountedTransaction(MemoryTransaction):
    """A transaction over the connection to the database, if there is one."""

    __slots__ = ("_failovers", "_locked", "_mounted")

    def __init__(self, mounted: MountedDisk, wanted: Wanted) -> None:
        super().__init__(mounted.disk.store, wanted)
        self._mounted = mounted
        self._locked = False

    async def __aenter__(self) -> MountedTransaction:
        mounted = self._mounted
        mounted.check()
        self._failovers = mounted.disk.failovers
        await mounted.travel(writes=False)
        if mounted.crowded_until_s > mounted.life.loop.time():
            await mounted.disk.queue.take(mounted.life)
            self._locked = True
        try:
            mounted.reach(self._failovers)
            await super().__aenter__()
            await mounted.travel(writes=False)
            mounted.hold_on(self._failovers, writes=False)
        except BaseException:
            self._unlock()
            raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._locked:
            self._locked = False
            self._mounted.disk.queue.give(self._mounted.life)

    async def commit(self, commit: Commit) -> None:
        mounted, disk = self._mounted, self._mounted.disk
        mounted.check()
        await mounted.travel(writes=True, extra_s=disk.faults.sync_s)
        mounted.reach(self._failovers)
        try:
            self.check()
            if disk.queue.is_taken(mounted.life):
                raise lost_to_another_node()
        except SerializationConflict:
            mounted.crowded_until_s = mounted.life.loop.time() + _CROWDED_S
            raise
        disk.commit(mounted.life, commit)
        disk.announce(mounted.life)
        await mounted.travel(writes=True)
        mounted.hold_on(self._failovers, writes=True)
