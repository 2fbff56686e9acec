"""How bugs are put in on purpose, and looked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from atoll.protocol import port
from atoll.recovery import startup_check
from atoll.recovery.numbering import Settle
from atoll.recovery.startup_check import StartupState
from atoll.region import driver
from atoll.region.options import RegionOptions
from atoll.simulation.failures import SimulationFailure
from atoll.simulation.plan import Plan, draw, with_truncation
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut
from atoll.testing.cluster import Cluster

SOONEST = Path(__file__).with_name("soonest.json")
"""Written by `tests.simulation.soonest`."""
Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


class Plant(NamedTuple):
    """One bug: how to put it in, what to run, within how many seeds it must be found, and by which checker."""

    name: str
    bug: Bug
    workloads: tuple[str, ...]
    seeds: int
    found_by: tuple[str, ...]
    prepare: Callable[[Cluster], None] | None
    alter: Callable[[Plan], Plan]


def as_drawn(plan: Plan) -> Plan:
    return plan


def busy(plan: Plan) -> Plan:
    return replace(plan, clients=3, mean_s=0.05)


def cut_soon(plan: Plan) -> Plan:
    """Journals are cut at once, and a region that is away is given up soon."""
    plan = with_truncation(plan, always=True)
    options = replace(
        plan.options,
        journal_s=0.0,
        journal_absent_s=0.5,
        journal_round_s=0.2,
        journal_most_bytes=None,
        snapshot_page_rows=5,
    )
    return replace(plan, options=options)


def near(plan: Plan, regions: tuple[str, ...], one_way_s: float, nodes: int = 1) -> Plan:
    """What the plan runs, in regions that are alike far apart and near their databases; nothing befalls them."""
    plan = replace(
        draw(plan.seed, regions, len(regions), nodes), workloads=plan.workloads, options=plan.options
    )
    return replace(
        plan,
        one_way_s={(a, b): one_way_s for a in regions for b in regions if a != b},
        trips_s=dict.fromkeys(regions, 0.001),
        node_trips_s=dict.fromkeys(plan.node_trips_s, 0.001),
        faults=(),
        detour=(),
        versions={},
        files=False,
        witnesses=(),
    )


def planting(plants: dict[str, Plant]) -> Callable[..., Callable[[Bug], Bug]]:
    """A decorator that adds bugs to `plants`."""

    def plant(
        name: str,
        *,
        workloads: tuple[str, ...],
        seeds: int,
        found_by: tuple[str, ...],
        prepare: Callable[[Cluster], None] | None = None,
        alter: Callable[[Plan], Plan] = as_drawn,
    ) -> Callable[[Bug], Bug]:
        """`found_by` names the checkers of which one must find it, first."""

        def planted(bug: Bug) -> Bug:
            plants[name] = Plant(name, bug, workloads, seeds, found_by, prepare, alter)
            return bug

        return planted

    return plant


def no_incarnation(patch: Patch) -> None:
    """Whatever a region lost, it numbers on under the incarnation that it finds."""

    def go_on(state: StartupState, *cause: object) -> port.Next[StartupState]:
        return startup_check._looked(state, (port.WakeAt(state.until_s),))

    patch.setattr(startup_check, "_begun", go_on)
    patch.setattr(driver, "Renumber", lambda region, cause: Settle(0))


def is_found(planted: Plant, patch: Patch) -> None:
    planted.bug(patch)
    report = _hunt(planted)
    assert report is not None, f"not found within {planted.seeds} seeds"
    assert report.failure is not None
    assert report.failure.invariant in planted.found_by, str(report.failure)


_WITHOUT: dict[tuple[str, Callable[[Cluster], None] | None], SimulationFailure | None] = {}
"""How plans end without a bug. A plan always ends alike, and several bugs are helped by the same one."""


def is_no_bug_by_itself(planted: Plant) -> None:
    for seed in range(3):
        plan = planted_plan(planted, seed)
        ran = (repr(plan), planted.prepare)
        if ran not in _WITHOUT:
            _WITHOUT[ran] = run(plan, prepare=planted.prepare).failure
        assert _WITHOUT[ran] is None, f"seed {seed}: {_WITHOUT[ran]}"


def planted_plan(planted: Plant, seed: int) -> Plan:
    """What a seed runs to look for this bug, with what helps to meet it."""
    return planted.alter(_plain(Cut(workloads=planted.workloads).apply(draw(seed, nodes=1))))


def _plain(plan: Plan) -> Plan:
    """Without what a bug has to ask for, by its `alter`: so that others are found in as few seeds as before."""
    kept = RegionOptions()
    names = ("journal_s", "journal_absent_s", "journal_round_s", "journal_most_bytes", "purge_s")
    faults = tuple(
        fault
        for fault in plan.faults
        if fault.kind not in ("restore", "failover") and not {*fault.regions} & {*plan.witnesses}
    )
    options = replace(plan.options, **{name: getattr(kept, name) for name in names})
    return replace(plan, options=options, faults=faults, witnesses=())


@functools.cache
def soonest() -> dict[str, int]:
    """Bug → the seed that has found it at the least cost."""
    found: dict[str, int] = json.loads(SOONEST.read_text("utf-8")) if SOONEST.exists() else {}
    return found


def _hunt(planted: Plant) -> Report | None:
    first = soonest().get(planted.name, 0)
    for seed in sorted(range(planted.seeds), key=lambda seed: seed != first):
        report = run(planted_plan(planted, seed), prepare=planted.prepare)
        if report.failure is not None:
            return report
    return None
