"""Bugs that were put in on purpose into how the nodes of a region share its database: the simulator finds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from atoll.commit import snapshot_page
from atoll.commit.batch import Batch
from atoll.documents.entry import EncodedEntry
from atoll.ids import service as ids_service
from atoll.ids.service import _Hold
from atoll.protocol import port
from atoll.recovery import node_leases, snapshot_install
from atoll.recovery.node_leases import LeasesState
from atoll.region import snapshot_install as region_install
from atoll.region.intake import Intake
from atoll.region.reader import Reader
from atoll.region.reading import Reading
from atoll.region.region import Region
from atoll.region.timeline import Timeline
from atoll.rollout.redeclare import MarkMixed
from atoll.simulation.plan import Fault, Plan, draw
from atoll.simulation.shrinking import Cut
from atoll.store.memory.store import MemoryTransaction
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Commit, Row
from atoll.testing.cluster import Cluster
from atoll.testing.disk import MountedDisk, MountedTransaction

from .planting import Patch, Plant, cut_soon, is_found, is_no_bug_by_itself, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def close_by(plan: Plan) -> Plan:
    """Two regions of two nodes each, near their databases; nothing goes wrong."""
    plan = Cut(workloads=plan.workloads).apply(draw(plan.seed, ("frankfurt", "tokyo"), 2, 2))
    return replace(
        plan,
        one_way_s={("frankfurt", "tokyo"): 0.02, ("tokyo", "frankfurt"): 0.02},
        node_trips_s=dict.fromkeys(plan.node_trips_s, 0.001),
        clients=3,
        mean_s=0.05,
        duration_s=6.0,
        faults=(),
        detour=(),
        versions={},
        files=False,
        witnesses=(),
    )


def rolling(plan: Plan) -> Plan:
    """Nodes are restarted one after the other with newer declarations."""
    upgrades = [
        Fault("upgrade", at_s, at_s, (name,), 3) for at_s, name in ((1.5, "frankfurt"), (3.5, "tokyo"))
    ]
    plan = close_by(plan)
    return replace(plan, versions=dict.fromkeys(plan.regions, 1), faults=tuple(upgrades))


def never_notified(plan: Plan) -> Plan:
    """Nodes hear of each other's commits when they ask, once a second."""
    return replace(close_by(plan), untold=1.0)


def stopped_past_its_lease(plan: Plan) -> Plan:
    """Whoever pulls is stopped for longer than its lease, and wakes up."""
    plan = close_by(plan)
    nodes = ("frankfurt/1", "tokyo/1")
    return replace(
        plan,
        options=replace(plan.options, lease_s=1.0),
        faults=tuple(Fault("pause", 1.0 + at, 1.1 + at, (name,), 2.5) for at, name in enumerate(nodes)),
    )


def emptied(plan: Plan) -> Plan:
    """A region of two nodes, far from its database, loses its disk, and journals are cut at once."""
    plan = cut_soon(close_by(plan))
    return replace(
        plan,
        options=replace(plan.options, lease_s=1.0),
        node_trips_s=dict.fromkeys(plan.node_trips_s, 0.02),
        clients=4,
        mean_s=0.03,
        duration_s=14.0,
        faults=(Fault("lost_disk", 2.0, 2.1, ("frankfurt",)),),
    )


def at_the_same_moment(cluster: Cluster) -> None:
    """Clocks of all nodes are exactly alike."""
    for node in cluster.nodes.values():
        node.clock.set_right()


@plant(
    "a commit does not compare the region's row",
    workloads=("counters",),
    seeds=2,
    found_by=("each entry is applied exactly once", "a counter is the sum of its increments"),
    alter=close_by,
)
def not_compared(patch: Patch) -> None:
    patch.setattr(MemoryTransaction, "check", lambda self: None)
    patch.setattr(MemoryTables, "_check", lambda self, commit: None)  # nor has the journal a key


@plant(
    "a link is kept past its lease, and what comes twice is believed",
    workloads=("counters",),
    seeds=6,
    found_by=("links move when their node dies", "each entry is applied exactly once"),
    alter=stopped_past_its_lease,
)
def lease_believed(patch: Patch) -> None:
    leased, apply = node_leases._leased, Batch.apply

    def keep(state: LeasesState, asked: frozenset[str], granted: frozenset[str]) -> port.Next[LeasesState]:
        return leased(state, asked, granted | state.held)

    def believe(self: Batch, encoded: EncodedEntry) -> None:
        entry = encoded.entry
        if entry.seq == self.vector.get(entry.origin, 0):
            self.vector[entry.origin] = entry.seq - 1
        apply(self, encoded)

    patch.setattr(node_leases, "_leased", keep)
    patch.setattr(Batch, "apply", believe)
    patch.setattr(MemoryTables, "_check", lambda self, commit: None)


@plant(
    "leases do not end",
    workloads=("counters",),
    seeds=2,
    found_by=("links move when their node dies",),
    alter=close_by,
)
def leases_for_ever(patch: Patch) -> None:
    honest = MemoryTables.lease

    def lease(
        self: MemoryTables, holder: object, run: int, names: Sequence[str], for_s: float
    ) -> dict[str, int]:
        return honest(self, holder, run, names, 1e9)

    patch.setattr(MemoryTables, "lease", lease)


@plant(
    "a notice is lost and nobody asks",
    workloads=("sessions",),
    seeds=2,
    found_by=(
        "a wait ends when another node commits",
        "a session's read is served in time",
        "healed regions agree in time",
    ),
    alter=close_by,
)
def never_told(patch: Patch) -> None:
    async def never(self: MountedDisk, follower: Any) -> None:
        return None

    patch.setattr(MountedDisk, "hear", lambda self, positions: None)
    patch.setattr(MountedDisk, "_ask_now_and_then", never)


@plant(
    "another node's commit wakes nothing that waits to be applied",
    workloads=("posts",),
    seeds=30,
    found_by=("healed regions agree in time", "a healed region takes writes"),
    alter=never_notified,
)
def nothing_woken(patch: Patch) -> None:
    """Found by seed 148: an entry waited at one node for what another one had written, until the next one came."""
    honest = Intake._moved

    def moved(self: Intake, before: dict[str, int], vector: dict[str, int]) -> None:
        call, self._call = self._call, lambda: None
        honest(self, before, vector)
        self._call = call

    async def never(self: Intake) -> None:
        """Nor does a node that is blocked look by itself."""

    patch.setattr(Intake, "_moved", moved)
    patch.setattr(Intake, "ask_for_others", never)


@plant(
    "documents cached past another node's commit",
    workloads=("sessions",),
    seeds=2,
    found_by=("a session reads what it has seen",),
    alter=close_by,
)
def cached_documents(patch: Patch) -> None:
    read_here, after_commit = Reader.read_here, Region._after_commit
    caches: dict[Reader, dict[tuple[str, str], Reading]] = {}

    async def cached(self: Reader, collection: str, key: str) -> Reading:
        cache = caches.setdefault(self, {})
        if (collection, key) not in cache:
            cache[collection, key] = await read_here(self, collection, key)
        return cache[collection, key]

    def forget(self: Region, batch: Batch) -> None:
        caches.pop(self.reader, None)
        after_commit(self, batch)

    patch.setattr(Reader, "read_here", cached)
    patch.setattr(Region, "_after_commit", forget)


@plant(
    "a vector cached past another node's commit",
    workloads=("counters", "sessions"),
    seeds=2,
    found_by=(
        "each entry is applied exactly once",
        "sequence numbers are used once",
        "every error has its class",
    ),
    alter=close_by,
)
def cached_vector(patch: Patch) -> None:
    def take_up(self: Timeline, view: Any, known: Mapping[str, int]) -> None:
        view.positions = dict(self._progress.vector)

    patch.setattr(Timeline, "take_up", take_up)


@plant(
    "other declarations of another node not noticed",
    workloads=("versions",),
    seeds=40,
    found_by=(
        "old and new declarations lose no field",
        "documents converge",
        "a mergeable field shows all that was done to it",
        "a read shows what its region has seen",
    ),
    alter=rolling,
)
def mixed_unnoticed(patch: Patch) -> None:
    """Found by the first rollout that went node by node: what an older one wrote stayed shown as that one did."""
    patch.setattr(MarkMixed, "perform", lambda self, batch, view: None)


@plant(
    "rights cached past another node's commit",
    workloads=("inventory",),
    seeds=4,
    found_by=("a counter is the sum of its increments", "a bounded counter stays above its bound"),
    alter=close_by,
)
def cached_rights(patch: Patch) -> None:
    """Each node spends what it last saw."""
    enter, commit = MountedTransaction.__aenter__, MountedTransaction.commit
    caches: dict[MountedDisk, dict[tuple[str, str], Any]] = {}

    async def enter_with_cache(self: MountedTransaction) -> MountedTransaction:
        await enter(self)
        cache = caches.setdefault(self._mounted, {})
        for address, row in self.rows.items():
            self.rows[address] = cache.setdefault(address, row)
        return self

    async def keep(self: MountedTransaction, made: Commit) -> None:
        await commit(self, made)
        for collection, rows in made.documents.items():
            for key, value, meta in rows:
                caches[self._mounted][collection, key] = Row(value, meta)

    patch.setattr(MountedTransaction, "__aenter__", enter_with_cache)
    patch.setattr(MountedTransaction, "commit", keep)


@plant(
    "answers remembered by each node for itself",
    workloads=("retries",),
    seeds=2,
    found_by=("a retried write counts once", "one idempotency key is one write"),
    alter=close_by,
)
def own_answers(patch: Patch) -> None:
    enter, commit = MountedTransaction.__aenter__, MountedTransaction.commit
    given: dict[MountedDisk, set[str]] = {}

    async def enter_forgetful(self: MountedTransaction) -> MountedTransaction:
        await enter(self)
        own = given.setdefault(self._mounted, set())
        self.remembered = {key: answer for key, answer in self.remembered.items() if key in own}
        return self

    async def keep(self: MountedTransaction, made: Commit) -> None:
        await commit(self, made)
        given[self._mounted].update(answer.key for answer in made.remembered)

    patch.setattr(MountedTransaction, "__aenter__", enter_forgetful)
    patch.setattr(MountedTransaction, "commit", keep)


@plant(
    "machine numbers shared",
    workloads=("identifiers", "counters"),
    seeds=2,
    found_by=("identifiers never collide",),
    prepare=at_the_same_moment,
    alter=close_by,
)
def numbers_shared(patch: Patch) -> None:
    async def first(claim: object) -> int:
        return 0

    async def moved(self: _Hold, until_ms: int) -> None:
        await self._counters.advance_counter(self._counter, 1)

    patch.setattr(ids_service, "_free_number", first)
    patch.setattr(_Hold, "__call__", moved)


@plant(
    "writes beside an installed position",
    workloads=("counters",),
    seeds=10,
    found_by=("nothing is written beside an installed position",),
    alter=emptied,
)
def written_beside(patch: Patch) -> None:
    """No node asks the others, and no transaction compares."""
    patch.setattr(snapshot_install, "LOOK_EVERY", 16.0)
    patch.setattr(region_install, "SURE_FOR", 1e9)
    patch.setattr(snapshot_page, "INCOMPLETE", b"never said")


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("alter", [close_by, never_notified, stopped_past_its_lease, rolling, emptied])
def test_nothing_is_found_without_a_bug(alter: Any) -> None:
    workloads = ("counters", "sessions", "inventory")
    is_no_bug_by_itself(Plant("", lambda patch: None, workloads, 3, (), at_the_same_moment, alter))
