"""Bugs that were put in on purpose into what regions purge, and when: the simulator finds each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.causality.vector import VersionVector
from atoll.commit import batch
from atoll.documents import purging as purges
from atoll.region.intake import IntakeOptions
from atoll.region.purging import Purging
from atoll.simulation.journal import WAITS_FOR_ALL
from atoll.simulation.plan import Fault, Plan
from atoll.simulation.runner import SHOWS_THE_SAME

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def purging(plan: Plan) -> Plan:
    """Regions purge all the time, and one of them is cut off for some time."""
    plan = losing(plan, Fault("partition", 1.0, 6.5, ("tokyo",)))
    return replace(plan, options=replace(plan.options, purge_s=0.2))


def slow_to_store(plan: Plan) -> Plan:
    """What peers have announced comes long before their entries are stored."""
    plan = purging(plan)
    options = replace(plan.options, intake=IntakeOptions(entries_per_commit=1))
    return replace(plan, options=options, trips_s=dict.fromkeys(plan.regions, 0.03))


@plant(
    "a purge waits for no other region",
    workloads=("traffic",),
    seeds=2,
    found_by=(WAITS_FOR_ALL,),
    alter=purging,
)
def waits_for_nobody(patch: Patch) -> None:
    patch.setattr(Purging, "_stable", lambda self: dict(self._group_commit.progress.vector))


@plant(
    "a purge does not wait for a region that is away",
    workloads=("traffic",),
    seeds=4,
    found_by=(WAITS_FOR_ALL,),
    alter=purging,
)
def forgets_the_absent(patch: Patch) -> None:
    stable = Purging._stable

    class Near:
        def __init__(self, names: Any) -> None:
            self.regions = names

    def among_the_near(self: Purging) -> VersionVector:
        members = self._members
        self._members = Near([name for name, link in self._links.items() if link.status.connected])  # type: ignore[assignment]
        try:
            return stable(self)
        finally:
            self._members = members

    patch.setattr(Purging, "_stable", among_the_near)


@plant(
    "a purge does not wait for what its peers had written before",
    workloads=("traffic",),
    seeds=4,
    found_by=(WAITS_FOR_ALL,),
    alter=slow_to_store,
)
def purges_at_once(patch: Patch) -> None:
    def least(self: Purging) -> VersionVector:
        peers = [self._links[peer].status for peer in self._members.regions if peer in self._links]
        if not all(status.connected and status.advertised for status in peers):
            return {}
        here = self._group_commit.progress.vector
        return {o: min(seq, *(p.advertised.get(o, 0) for p in peers)) for o, seq in here.items()}

    patch.setattr(Purging, "_stable", least)


@plant(
    "a purge drops members that are there",
    workloads=("traffic",),
    seeds=2,
    found_by=(SHOWS_THE_SAME,),
    alter=purging,
)
def drops_the_living(patch: Patch) -> None:
    patch.setattr(purges, "_removed", purges._seen)


@plant(
    "a purge resolves no records",
    workloads=("traffic",),
    seeds=4,
    found_by=("every lost value is in the audit", "a record says what happened"),
    alter=purging,
)
def leaves_records_open(patch: Patch) -> None:
    resolved = batch.resolved_records
    patch.setattr(
        batch,
        "resolved_records",
        lambda it, key: [] if purges.PURGED in it.written_registers else resolved(it, key),
    )


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", list(PLANTS)[:1])
def test_nothing_is_found_without_the_bug(name: str) -> None:
    """To purge all the time breaks nothing by itself."""
    is_no_bug_by_itself(PLANTS[name])
