"""Bugs that were put in on purpose into fallbacks and escrow: the simulator finds each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.region import proposer
from atoll.region.reader import Reader
from atoll.region.registers import Registers
from atoll.simulation.fallbacks import EXACT, LINEARIZABLE, NOT_LOST, ONLY_CUT_OFF
from atoll.simulation.plan import Fault, Plan

from .planting import Patch, Plant, busy, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

AUDITED = "every lost value is in the audit"


def healthy(plan: Plan) -> Plan:
    """Nothing fails, for long enough that nobody may say that it did."""
    return replace(losing(plan), clients=2, mean_s=0.1, duration_s=12.0)


def parted(plan: Plan) -> Plan:
    """One region after the other is cut off, while all write."""
    names = ("tokyo", "frankfurt", "virginia")
    cuts = [Fault("partition", 4.0 * at, 4.0 * at + 3.0, (name,)) for at, name in enumerate(names)]
    return replace(losing(plan, *cuts), clients=4, mean_s=0.05, duration_s=12.0)


@plant(
    "a fallback is taken at any time",
    workloads=("fallbacks",),
    seeds=3,
    found_by=(ONLY_CUT_OFF,),
    alter=healthy,
)
def takes_it_at_any_time(patch: Patch) -> None:
    patch.setattr(Registers, "cut_off", property(lambda self: True))


@plant(
    "what was written while cut off is dropped",
    workloads=("fallbacks",),
    seeds=5,
    found_by=(NOT_LOST, AUDITED),
    alter=parted,
)
def drops(patch: Patch) -> None:
    honest = proposer.folded

    def folded(rules: Any, key: str, before: Any, *given: Any) -> Any:
        after = honest(rules, key, before, *given)
        return after if after is before else msgspec.structs.replace(after, value=before.value, lost=())

    patch.setattr(proposer, "folded", folded)


@plant(
    "the audit does not hear of it",
    workloads=("fallbacks",),
    seeds=5,
    found_by=(NOT_LOST, AUDITED),
    alter=parted,
)
def says_nothing(patch: Patch) -> None:
    honest = proposer.folded

    def folded(*given: Any) -> Any:
        return msgspec.structs.replace(honest(*given), lost=())

    patch.setattr(proposer, "folded", folded)


@plant(
    "a fallback is taken in silence",
    workloads=("fallbacks",),
    seeds=5,
    found_by=(LINEARIZABLE,),
    alter=parted,
)
def is_silent(patch: Patch) -> None:
    honest = Reader._read_decided

    async def read(self: Reader, collection: str, key: str, options: Any) -> Any:
        return (await honest(self, collection, key, options))._replace(degraded=None)

    patch.setattr(Reader, "_read_decided", read)


@plant(
    "a total is of the region alone",
    workloads=("fallbacks",),
    seeds=5,
    found_by=(EXACT,),
    alter=lambda plan: busy(healthy(plan)),
)
def counts_alone(patch: Patch) -> None:
    async def read(self: Reader, collection: str, key: str, options: Any) -> Any:
        return await self.read_here(collection, key)

    patch.setattr(Reader, "_read_total", read)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize("name", ["a fallback is taken at any time", "a fallback is taken in silence"])
def test_nothing_is_found_without_the_bug(name: str) -> None:
    """To be cut off breaks no promise."""
    is_no_bug_by_itself(PLANTS[name])
