"""Bugs that were put in on purpose into how incarnations that are over are folded: see `atoll.causality.floor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.causality import vector as vectors
from atoll.causality.floor import floors_of, fold, lacking, origins_in
from atoll.causality.origin import region_of
from atoll.commit.contexts import Contexts
from atoll.documents import document, register
from atoll.documents.entry import decode_frames
from atoll.recovery.startup_check import StartupState
from atoll.region import feed, reader, waits, writer
from atoll.replication import snapshot
from atoll.replication.messages import SnapshotReply
from atoll.simulation.floors import IS_OVER, LEAVES_OUT, STANDS_FOR
from atoll.simulation.plan import Fault, Plan, draw
from atoll.simulation.runner import run
from atoll.testing.cluster import Cluster

from .planting import Patch, Plant, cut_soon, is_found, is_no_bug_by_itself, near, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)
REGIONS = ("frankfurt", "tokyo", "virginia")
_EVERY_S = 5.0


def losing(plan: Plan, times: int, *faults: Fault) -> Plan:
    """Tokyo loses its disk again and again."""
    lost = tuple(
        Fault("lost_disk", at_s, at_s + 0.2, ("tokyo",))
        for at_s in (2.0 + _EVERY_S * number for number in range(times))
    )
    return replace(
        near(plan, REGIONS, 0.03),
        clients=2,
        mean_s=0.15,
        duration_s=2.0 + _EVERY_S * times,
        faults=(*lost, *faults),
    )


def often(plan: Plan) -> Plan:
    return losing(plan, 3)


def cut_off(plan: Plan) -> Plan:
    """While it comes back, one peer is away, which has more of it than the other. So many writes are under way."""
    away = (
        Fault("partition", 1.0, 1.9, ("frankfurt",)),
        Fault("partition", 1.8, 4.5, ("virginia",)),
    )
    return replace(losing(plan, 2, *away), clients=3, mean_s=0.05)


def alone(plan: Plan) -> Plan:
    """What it writes just before it loses its disk reaches nobody."""
    return losing(plan, 2, Fault("partition", 1.0, 2.1, ("tokyo",)))


def by_snapshot(plan: Plan) -> Plan:
    """Frankfurt has to take a snapshot of what was folded meanwhile."""
    return losing(cut_soon(plan), 3, Fault("lost_disk", 14.0, 14.3, ("frankfurt",)))


@plant(
    "a floor is raised before its region has all that it stands for",
    workloads=("traffic", "counters"),
    seeds=6,
    found_by=(IS_OVER, STANDS_FOR),
    alter=cut_off,
)
def unsettled(patch: Patch) -> None:
    patch.setattr(StartupState, "floor", property(lambda self: self.numbering.incarnation))


@plant(
    "contexts name what is folded",
    workloads=("traffic",),
    seeds=1,
    found_by=(LEAVES_OUT,),
    alter=often,
)
def never_left_out(patch: Patch) -> None:
    patch.setattr(Contexts, "next", lambda self, vector, origin: {
        **vector, **self.raises, origin: vector.get(origin, 0)
    })  # fmt: skip


@plant(
    "what a floor stands for counts as unseen",
    workloads=("traffic",),
    seeds=3,
    found_by=(
        "documents converge",
        "what is shown is what the history says",
        "the audit is what the history says",
        "a read shows what its region has seen",
    ),
    alter=often,
)
def unseen(patch: Patch) -> None:
    patch.setattr(register, "folds", lambda context, origin: False)
    patch.setattr(register, "covers", lambda context, origin, seq: context.get(origin, 0) >= seq)
    patch.setattr(document, "folds", lambda context, origin: False)


@plant(
    "a region that takes a snapshot misses its floors",
    workloads=("traffic", "counters"),
    seeds=3,
    found_by=(STANDS_FOR,),
    alter=by_snapshot,
)
def no_floors(patch: Patch) -> None:
    read_page = snapshot.read_page

    async def without(*args: Any, **options: Any) -> SnapshotReply:
        page = await read_page(*args, **options)
        return msgspec.structs.replace(page, after=origins_in(page.after))

    patch.setattr(snapshot, "read_page", without)


@plant(
    "a token beyond an end counts as satisfied by the floor",
    workloads=("sessions", "traffic"),
    seeds=6,
    found_by=("a session reads what it has seen", "writes follow reads and earlier writes"),
    alter=alone,
)
def satisfied(patch: Patch) -> None:
    class Lenient:
        missing = vectors.missing

        @staticmethod
        def descends(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
            return not lacking(fold(a), b)

    for each in (waits, reader, writer):
        patch.setattr(each, "vectors", Lenient)


@plant(
    "a folded cursor is taken for one that has seen nothing of it",
    workloads=("feed", "traffic"),
    seeds=3,
    found_by=("the change feed misses nothing", "the change feed is in causal order"),
    alter=often,
)
def from_the_start(patch: Patch) -> None:
    patch.setattr(feed, "lacking", lambda seen, wanted: origins_in(vectors.missing(seen, wanted)))


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", PLANTS)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    is_no_bug_by_itself(PLANTS[name])


def test_eight_lost_disks_leave_no_trace_in_what_is_handed_out() -> None:
    clusters: list[Cluster] = []
    plan = losing(replace(draw(5), workloads=("traffic", "sessions", "feed")), 8)
    report = run(plan, prepare=clusters.append)
    assert report.failure is None, str(report.failure)
    for name in REGIONS:
        store = clusters[0][name].disk.store
        position = store.positions()
        assert len([each for each in position if region_of(each) == "tokyo"]) > 8
        assert len(floors_of(position)) == 1
        token = origins_in(fold(position))
        assert [region_of(each) for each in token] == sorted(REGIONS)
        newest: dict[str, int] = {}
        for numbered in store.journal(0, limit=1 << 30, limit_bytes=1 << 40):
            for encoded in decode_frames(numbered.segment.body):
                if encoded.entry.origin in token:
                    newest = encoded.entry.context
        assert origins_in(newest).keys() <= token.keys()
