"""Bugs that were put in on purpose into clocks and into the wait for the order: the simulator finds each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.causality.uncertainty import OffsetEstimator
from atoll.region import commit_wait
from atoll.region.clocks import Clocks
from atoll.region.commit_wait import CommitWait
from atoll.simulation.external import HOLDS_THE_TIME, STAMPED_IN_ORDER
from atoll.simulation.plan import Fault, Plan

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def stepping(plan: Plan) -> Plan:
    """One clock after the other is set back while its region is cut off, and proofs are needed.

    Every other kernel gives none.
    """
    faults = []
    for at, name in enumerate(plan.regions[:3]):
        faults.append(Fault("partition", 2.0 + 2.5 * at, 4.3 + 2.5 * at, (name,)))
        faults.append(Fault("clock_step", 2.0 + 2.5 * at, 4.2 + 2.5 * at, (name,), -1500))
    return replace(
        plan,
        options=replace(plan.options, max_clock_offset_ms=1000, require_synchronised_clocks=True),
        margins_ms={name: (None, 5)[number % 2] for number, name in enumerate(plan.regions)},
        faults=tuple(faults),
        detour=(),
        duration_s=10.0,
        clients=3,
        mean_s=0.1,
    )


@plant("a wait without the bound", workloads=("external",), seeds=10, found_by=(STAMPED_IN_ORDER,))
def waits_without_the_bound(patch: Patch) -> None:
    patch.setattr(commit_wait, "settled_ms", lambda stamp, most_ms: (stamp >> 16) + 1)


@plant("no wait at all", workloads=("external",), seeds=10, found_by=(STAMPED_IN_ORDER,))
def waits_for_nothing(patch: Patch) -> None:
    async def over(self: CommitWait, *arguments: Any) -> None:
        return None

    patch.setattr(CommitWait, "over", over)


@plant("peers' clocks taken for exact", workloads=("external",), seeds=10, found_by=(HOLDS_THE_TIME,))
def takes_peers_for_exact(patch: Patch) -> None:
    honest = OffsetEstimator.add

    def add(self: OffsetEstimator, *exchange: Any) -> None:
        honest(self, *exchange[:4], 0)

    patch.setattr(OffsetEstimator, "add", add)


@plant(
    "a step of the clock unseen",
    workloads=("external",),
    seeds=15,
    found_by=(HOLDS_THE_TIME, STAMPED_IN_ORDER),
    alter=stepping,
)
def sees_no_step(patch: Patch) -> None:
    patch.setattr(Clocks, "_read", lambda self: self._now_ms())


@plant(
    "a clock without proof takes writes",
    workloads=("external",),
    seeds=15,
    found_by=(STAMPED_IN_ORDER,),
    alter=stepping,
)
def serves_without_proof(patch: Patch) -> None:
    patch.setattr(Clocks, "writes", lambda self: None)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", ["no wait at all", "a step of the clock unseen"])
def test_nothing_is_found_without_the_bug(name: str) -> None:
    """To set clocks back breaks nothing by itself."""
    is_no_bug_by_itself(PLANTS[name])
