"""Bugs that were put in on purpose into how the regions that decide follow the members."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from atoll.consensus.acceptor_set import AcceptorSet
from atoll.region import acceptor_sets
from atoll.region.acceptor_sets import AcceptorSets
from atoll.simulation.placements import LINEARIZABLE
from atoll.simulation.plan import Plan

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def of_three(plan: Plan) -> Plan:
    """Without faults before members change, and with few writes: each is the last one of its document for long."""
    kept = plan.regions[:3]
    delays = {pair: s for pair, s in plan.one_way_s.items() if {*pair} <= {*kept}}
    plan = replace(plan, faults=(), detour=(), versions={}, files=False, mean_s=3.0)
    return replace(plan, regions=kept, one_way_s=delays, nodes={}, witnesses=())


@plant("nothing is moved", workloads=("members",), seeds=10, found_by=(LINEARIZABLE,), alter=of_three)
def nothing_moved(patch: Patch) -> None:
    """A region that decides has moved when it knows of the set."""
    patch.setattr(acceptor_sets, "_has_moved", lambda *_: True)
    patch.setattr(AcceptorSets, "_move", _nothing)


@plant(
    "a set follows before enough has moved",
    workloads=("members",),
    seeds=10,
    found_by=(LINEARIZABLE,),
    alter=of_three,
)
def too_early(patch: Patch) -> None:
    """What is moved takes some seconds, as with many documents."""
    move = AcceptorSets._move

    async def slowly(sets: AcceptorSets, current: AcceptorSet) -> None:
        await asyncio.sleep(5.0)
        await move(sets, current)

    patch.setattr(AcceptorSets, "_move", slowly)
    patch.setattr(AcceptorSet, "enough_moved", lambda *_: True)


async def _nothing(*_: Any) -> None:
    """In the place of what does something."""


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", PLANTS)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    is_no_bug_by_itself(PLANTS[name])
