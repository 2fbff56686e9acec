"""Bugs that were put in on purpose into how a region comes back from a backup, or goes on with a standby."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from atoll.backup import backup
from atoll.backup.archive import ArchiveReader
from atoll.protocol import port
from atoll.recovery import restore
from atoll.recovery.restore import RESTORED, RestoreState
from atoll.region.region import Region
from atoll.region.timeline import Timeline
from atoll.replication import snapshot
from atoll.replication.messages import SnapshotReply
from atoll.simulation.journal import HOLDS_BACK
from atoll.simulation.plan import Fault, Plan
from atoll.simulation.sessions import Returning
from atoll.simulation.world import World
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Chunk, View
from atoll.testing import cluster as clusters

from .planting import Patch, Plant, cut_soon, is_found, is_no_bug_by_itself, near, no_incarnation, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


REGIONS = ("frankfurt", "tokyo", "virginia")


def losing(plan: Plan, *faults: Fault, nodes: int = 1, regions: tuple[str, ...] = REGIONS) -> Plan:
    """Regions that write a lot; of one the data go back."""
    plan = near(plan, regions, 0.05, nodes)
    return replace(plan, clients=3, mean_s=0.05, duration_s=7.0, faults=faults)


def restored(plan: Plan) -> Plan:
    """While it is cut off from one peer, and then from both, so that there is somebody to wait for."""
    return losing(
        replace(plan, options=replace(plan.options, startup_check_s=60.0)),
        Fault("restore", 1.0, 3.0, ("tokyo",), 1.5),
        Fault("partition", 1.5, 5.5, ("virginia",)),
        Fault("partition", 2.9, 4.0, ("tokyo",)),
    )


def failed_over(plan: Plan) -> Plan:
    """And its nodes are started again later, so that nothing is left of what they have in memory."""
    return losing(
        plan, Fault("failover", 0.05, 3.2, ("tokyo",), 2.9), Fault("restart", 4.5, 4.6, ("tokyo",)), nodes=2
    )


def rolled_back(plan: Plan) -> Plan:
    """Frankfurt goes back to declarations without `memo`. Tokyo, which has these, takes its snapshot over."""
    plan = losing(
        cut_soon(plan),
        Fault("upgrade", 2.0, 2.0, ("frankfurt",), 1),
        Fault("lost_disk", 3.0, 3.5, ("tokyo",)),
        regions=("frankfurt", "tokyo"),
    )
    # Each collection has a page. The snapshot is to end before all get the newest declarations: then another begins.
    return replace(plan, versions={"frankfurt": 2, "tokyo": 1}, duration_s=14.0)


@plant(
    "a snapshot leaves out what its region no longer declares",
    workloads=("versions",),
    seeds=3,
    found_by=("documents converge", "merge states converge"),
    alter=rolled_back,
)
def undeclared_left_out(patch: Patch) -> None:
    read_page = snapshot.read_page

    async def declared_only(*args: Any, **options: Any) -> SnapshotReply:
        return await read_page(*args, **{**options, "others": ()})

    patch.setattr(snapshot, "read_page", declared_only)


@plant(
    "a restored region serves too early",
    workloads=("traffic",),
    seeds=2,
    found_by=(HOLDS_BACK,),
    alter=restored,
)
def not_marked(patch: Patch) -> None:
    chunks = clusters.restored_chunks

    async def unmarked(reader: ArchiveReader, now_ms: int, gone: Collection[str]) -> AsyncIterator[Chunk]:
        async for chunk in chunks(reader, now_ms, gone):
            yield replace(chunk, counters={n: v for n, v in chunk.counters.items() if n != RESTORED})

    patch.setattr(clusters, "restored_chunks", unmarked)


@plant(
    "a restored region waits for one peer only",
    workloads=("traffic",),
    seeds=16,
    found_by=(HOLDS_BACK,),
    alter=restored,
)
def one_peer_is_enough(patch: Patch) -> None:
    step = restore.step

    def hasty(state: RestoreState, event: restore.Event, now_s: float) -> port.Next[RestoreState]:
        if isinstance(event, port.Heard) and event.peer in state.awaited:
            state = replace(state, awaited=frozenset({event.peer}))
        return step(state, event, now_s)

    patch.setattr(restore, "step", hasty)


@plant(
    "a restored region gives numbers out again",
    workloads=("counters",),
    seeds=2,
    found_by=(
        "an entry is the same in every region",
        "a region that went back first takes what its peers have",
    ),
    alter=restored,
)
def numbers_again(patch: Patch) -> None:
    async def nobody(self: Returning, world: World) -> None:
        """Reads meanwhile."""

    not_marked(patch)
    patch.setattr(Returning, "run", nobody)
    no_incarnation(patch)


@plant(
    "a restored region gives identifiers out again",
    workloads=("identifiers",),
    seeds=3,
    found_by=("identifiers never collide",),
    alter=restored,
)
def identifiers_again(patch: Patch) -> None:
    patch.setattr(backup, "counters_after_restore", lambda kept, **when: {})


@plant(
    "a failover loses the tail, and the region goes on",
    workloads=("counters",),
    seeds=2,
    found_by=("an entry is the same in every region", HOLDS_BACK),
    alter=failed_over,
)
def tail_forgotten(patch: Patch) -> None:
    def follow(self: Timeline, view: View, known: Mapping[str, int]) -> None:
        self._progress.move(dict(view.positions))

    no_incarnation(patch)
    patch.setattr(Region, "_history_changed", lambda self, *changed: None)
    patch.setattr(Timeline, "take_up", follow)
    patch.setattr(Timeline, "check", lambda self, view: None)


@plant(
    "identifiers go on where the standby stood",
    workloads=("identifiers",),
    seeds=3,
    found_by=("identifiers never collide",),
    alter=failed_over,
)
def standby_counts_on(patch: Patch) -> None:
    take_up: Callable[[MemoryTables, str, Mapping[str, int]], None] = MemoryTables.take_up
    patch.setattr(MemoryTables, "take_up", lambda self, history, counters: take_up(self, history, {}))


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", PLANTS)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    is_no_bug_by_itself(PLANTS[name])
