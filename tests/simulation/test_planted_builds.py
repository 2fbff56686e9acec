"""Bugs that were put in on purpose into what is built for documents that exist: the simulator finds each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.consensus.references import Marked, counted_at, marks_of
from atoll.region import claims
from atoll.region.building import Building
from atoll.region.claiming import Claiming, Page
from atoll.region.counting import Counting
from atoll.simulation.counted_later import COUNTED, KEPT, UNKEPT
from atoll.simulation.declared_later import BUILT, CLAIMED, FREE
from atoll.simulation.plan import Fault, Plan

from .planting import Patch, Plant, busy, is_found, is_no_bug_by_itself, planting
from .test_planted_transactions import crowded

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

WORKLOADS = ("declared_later",)


def rolled_out(plan: Plan) -> Plan:
    """Two regions have the new declaration at first, one later. One goes back for a while."""
    plan = replace(crowded(plan), clients=2, faults=(), duration_s=19.0)
    plan = replace(plan, versions={"tokyo": 1, "frankfurt": 2, "virginia": 2})
    return upgraded(plan, (0.5, "tokyo", 2), (14.0, "frankfurt", 1), (18.9, "frankfurt", 2))


def by_and_by(plan: Plan) -> Plan:
    """All regions have the former declaration for a while."""
    plan = replace(crowded(plan), clients=2, faults=(), duration_s=10.0)
    plan = replace(plan, versions=dict.fromkeys(plan.regions, 1))
    return upgraded(plan, *((2.0 + 0.3 * at, name, 2) for at, name in enumerate(plan.regions)))


def upgraded(plan: Plan, *steps: tuple[float, str, int]) -> Plan:
    return plan.adding(*(Fault("upgrade", at_s, at_s, (name,), version) for at_s, name, version in steps))


@plant(
    "a region that went back is not noticed",
    workloads=WORKLOADS,
    seeds=10,
    found_by=(CLAIMED, FREE, COUNTED, UNKEPT),
    alter=lambda plan: busy(rolled_out(plan)),
)
def unnoticed(patch: Patch) -> None:
    async def look(self: Building) -> None:
        await honest(self)
        build = await self._read("unique/pass/number")
        if build is not None:
            self._wanted = set()

    honest = Building._look
    patch.setattr(Building, "_look", look)


@plant("a build passes documents over", workloads=WORKLOADS, seeds=20, found_by=(CLAIMED,), alter=rolled_out)
def passes_over(patch: Patch) -> None:
    honest = Claiming._claim_all

    async def claim_all(self: Claiming, keys: Any) -> None:
        await honest(self, keys[:1])

    patch.setattr(Claiming, "_claim_all", claim_all)


@plant(
    "claims that no document has stay",
    workloads=WORKLOADS,
    seeds=20,
    found_by=(FREE, CLAIMED),
    alter=rolled_out,
)
def stays(patch: Patch) -> None:
    async def free(self: Claiming, at: str) -> None:
        pass

    patch.setattr(Claiming, "_free", free)


@plant(
    "a build passes references over",
    workloads=WORKLOADS,
    seeds=20,
    found_by=(COUNTED, KEPT),
    alter=by_and_by,
)
def passes_references_over(patch: Patch) -> None:
    honest = Counting._count

    async def count(self: Counting, keys: Any) -> None:
        await honest(self, keys[:1])

    patch.setattr(Counting, "_count", count)


@plant(
    "writers go by documents, and not by marks",
    workloads=WORKLOADS,
    seeds=20,
    found_by=(COUNTED, UNKEPT),
    alter=by_and_by,
)
def unmarked(patch: Patch) -> None:
    """Who turns from what was never counted takes it off the count all the same."""
    honest, on = claims.needed, Marked.on

    def needed(documents: Any, marks: Any) -> Any:
        supposed = {
            mark: moves.before.get(each)
            for at, moves in documents.items()
            for each, mark in marks_of(at, moves).items()
        }
        return honest(documents, supposed)

    def unchecked(self: Marked, before: bytes | None) -> Any:
        return on(msgspec.structs.replace(self, former=counted_at(before)), before)

    patch.setattr(claims, "needed", needed)
    patch.setattr(Marked, "on", unchecked)


@plant("deletions do not wait for counts", workloads=WORKLOADS, seeds=20, found_by=(KEPT,), alter=by_and_by)
def deletes_early(patch: Patch) -> None:
    counts_slowly(patch)

    async def require_counts(*_: Any) -> None:
        pass

    patch.setattr(Building, "require_counts", require_counts)


def counts_slowly(patch: Patch) -> None:
    """No bug by itself."""
    honest = Counting.look

    async def look(self: Counting, phase: int, after: str | None) -> Page:
        await asyncio.sleep(1.0)
        return await honest(self, phase, after)

    patch.setattr(Counting, "look", look)


@plant(
    "references to nothing are not told", workloads=WORKLOADS, seeds=20, found_by=(COUNTED,), alter=by_and_by
)
def untold(patch: Patch) -> None:
    async def say(*_: Any) -> None:
        pass

    patch.setattr(Counting, "_say", say)


@plant("a build never ends", workloads=WORKLOADS, seeds=5, found_by=(BUILT,), alter=rolled_out)
def never_ends(patch: Patch) -> None:
    patch.setattr(Building, "_built", lambda *_: None)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_is_found_where_counting_only_takes_long(monkeypatch: Patch) -> None:
    counts_slowly(monkeypatch)
    is_no_bug_by_itself(PLANTS["deletions do not wait for counts"])
