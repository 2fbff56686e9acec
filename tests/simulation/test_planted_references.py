"""Bugs that were put in on purpose into references: the simulator finds each."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.commit import batch
from atoll.region.dangling import Dangling
from atoll.region.references import References
from atoll.region.stability import Stability
from atoll.simulation.references import DANGLES

from .planting import Patch, Plant, busy, is_found, is_no_bug_by_itself, planting
from .test_planted_transactions import crowded

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

AUDIT = (
    "the audit is the same in every region",
    "every lost value is in the audit",
    "the audit holds nothing else",
    "a record says what happened",
)


@plant(
    "nobody looks for deletions that met a reference",
    workloads=("references",),
    seeds=10,
    found_by=(DANGLES,),
    alter=crowded,
)
def looks_away(patch: Patch) -> None:
    patch.setattr(Dangling, "_note", lambda *_: None)


@plant(
    "nobody carries the policy out", workloads=("references",), seeds=10, found_by=(DANGLES,), alter=crowded
)
def leaves(patch: Patch) -> None:
    async def settle(self: Dangling, *_: Any) -> bool:
        return False

    patch.setattr(Dangling, "settle", settle)


@plant(
    "what was deleted is let go too early",
    workloads=("references",),
    seeds=40,
    found_by=(DANGLES,),
    alter=lambda plan: busy(crowded(plan)),
)
def forgets(patch: Patch) -> None:
    patch.setattr(Stability, "look", lambda self: dict(self._progress.vector))


@plant(
    "what dangles no more is struck without a record",
    workloads=("references",),
    seeds=10,
    found_by=AUDIT,
    alter=crowded,
)
def strikes(patch: Patch) -> None:
    honest = batch.resolved_records

    def resolved(draft: Any, key: str) -> Any:
        return [] if draft.rules.dangling else honest(draft, key)

    patch.setattr(batch, "resolved_records", resolved)


@plant(
    "a deletion does not look for references",
    workloads=("references",),
    seeds=10,
    found_by=(DANGLES,),
    alter=crowded,
)
def unseen(patch: Patch) -> None:
    unchecked(patch)
    looks_away(patch)


def unchecked(patch: Patch) -> None:
    """What a region does not check is found by all as if it had met at once: no bug by itself."""

    async def go_on(self: References, *_: Any) -> None:
        pass

    patch.setattr(References, "_go_on", go_on)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_dangles_where_deletions_are_not_checked(monkeypatch: Patch) -> None:
    unchecked(monkeypatch)
    is_no_bug_by_itself(PLANTS["a deletion does not look for references"])
