"""Bugs that were put in on purpose into transactions over strong documents: the simulator finds each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.consensus.outcome import Outcome
from atoll.region.outcomes import Outcomes
from atoll.region.proposer import Proposer
from atoll.region.registers import Registers
from atoll.region.transactions import Transactions
from atoll.simulation.plan import Fault, Plan
from atoll.simulation.transfers import MONEY, SERIALIZABLE

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

FOUND_BY = (SERIALIZABLE, MONEY, "a register decides each revision once")


def crowded(plan: Plan) -> Plan:
    """One region after the other is cut off, so that others propose."""
    names = ("tokyo", "frankfurt", "virginia")
    cuts = [Fault("partition", 2.5 * at, 2.5 * at + 2.2, (name,)) for at, name in enumerate(names)]
    return replace(losing(plan, *cuts), clients=6, mean_s=0.05, duration_s=8.0)


def calm(plan: Plan) -> Plan:
    return replace(crowded(plan), clients=1, mean_s=0.3, faults=())


@plant("a read looks past an intent", workloads=("transfers",), seeds=10, found_by=FOUND_BY, alter=calm)
def looks_past(patch: Patch) -> None:
    async def committed(self: Registers, register: Any) -> Any:
        value = await self._inspected(register)
        return None if value is None else msgspec.structs.replace(value, intent=None)

    settles_late(patch)
    patch.setattr(Registers, "_committed", committed)


def settles_late(patch: Patch) -> None:
    """Intents stay for as long as others have the patience: no bug by itself."""
    honest = Transactions._settle

    async def settle(self: Transactions, *arguments: Any, **options: Any) -> None:
        await asyncio.sleep(1.0)
        await honest(self, *arguments, **options)

    patch.setattr(Transactions, "_settle", settle)


@plant("a snapshot is read once", workloads=("transfers",), seeds=10, found_by=FOUND_BY, alter=crowded)
def reads_once(patch: Patch) -> None:
    async def snapshot(self: Transactions, addresses: Any) -> Any:
        found = [(await honest(self, [address]))[0][0] for address in addresses]
        return found, self._vector()

    honest = Transactions.snapshot
    patch.setattr(Transactions, "snapshot", snapshot)


@plant(
    "an intent is put in another's place",
    workloads=("transfers",),
    seeds=10,
    found_by=FOUND_BY,
    alter=crowded,
)
def replaces(patch: Patch) -> None:
    async def settled(self: Proposer, register: Any, before: Any, changes: Any) -> Any:
        return msgspec.structs.replace(before, intent=None), True

    patch.setattr(Proposer, "_settled", settled)


@plant(
    "it commits before a majority has said so",
    workloads=("transfers",),
    seeds=25,
    found_by=FOUND_BY,
    alter=crowded,
)
def commits_alone(patch: Patch) -> None:
    honest = Outcomes.decide

    async def decide(self: Outcomes, transaction: str, wanted: Outcome, *, first: bool = False) -> Outcome:
        if first:
            return wanted
        return await honest(self, transaction, wanted)

    patch.setattr(Outcomes, "decide", decide)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_is_found_where_intents_only_stay(monkeypatch: Patch) -> None:
    settles_late(monkeypatch)
    is_no_bug_by_itself(PLANTS["a read looks past an intent"])
