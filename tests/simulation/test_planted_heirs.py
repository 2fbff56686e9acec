"""Bugs that were put in on purpose into what becomes of the rights of a region that has left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atoll.lattices.base import Actor
from atoll.membership.heirs import Heirs
from atoll.region.inheritance import Inheritance
from atoll.simulation.leaving import SOLD_ONCE
from atoll.simulation.plan import Plan

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)
FOUND_BY = (SOLD_ONCE, "a counter is the sum of its increments")


def of_three(plan: Plan) -> Plan:
    """Without faults: that a region leaves is one."""
    return replace(plan, faults=(), detour=(), versions={}, files=False)


@plant("two heirs", workloads=("leaving",), seeds=6, found_by=FOUND_BY, alter=of_three)
def two_heirs(patch: Patch) -> None:
    """Every region takes itself for the heir."""

    def holds(actor: Actor, origin: str) -> bool:
        _, clear = actor.heirs.holder_of(origin)
        return origin == actor.origin or (
            actor.inherits and clear and actor.heirs.heir_of(origin) is not None
        )

    patch.setattr(Actor, "holds", holds)


@plant(
    "an heir sells before all is known", workloads=("leaving",), seeds=6, found_by=FOUND_BY, alter=of_three
)
def too_early(patch: Patch) -> None:
    holder_of = Heirs.holder_of
    patch.setattr(Heirs, "holder_of", lambda heirs, origin: (holder_of(heirs, origin)[0], True))


@plant(
    "a region that comes back has its rights",
    workloads=("leaving",),
    seeds=8,
    found_by=FOUND_BY,
    alter=of_three,
)
def has_them_still(patch: Patch) -> None:
    holds = Actor.holds

    def or_its_own(actor: Actor, origin: str) -> bool:
        return origin in actor.former or holds(actor, origin)

    patch.setattr(Actor, "holds", or_its_own)
    former = property(lambda self: self._means.startup_check.former)
    patch.setattr(Inheritance, "former", former)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", PLANTS)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    is_no_bug_by_itself(PLANTS[name])
