"""Bugs that were put in on purpose into references between strong documents: the simulator finds each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.commit.identity import Address
from atoll.consensus import decided
from atoll.consensus.outcome import Outcome
from atoll.consensus.references import Counted, Exists
from atoll.documents.mutation import Receipt, Write
from atoll.region import claims, proposer, registers
from atoll.region.claims import Claims
from atoll.region.concluding import Asked
from atoll.region.transactions import Transactions
from atoll.schema.system import REFERRED
from atoll.simulation.plan import Plan
from atoll.simulation.strong_references import COUNTED, DELETED, EXISTS

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_transactions import crowded
from .test_planted_unique import unguarded

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

WORKLOADS = ("strong_references",)


def calm(plan: Plan) -> Plan:
    return replace(crowded(plan), clients=2, faults=())


@plant(
    "references are counted in a transaction of their own",
    workloads=WORKLOADS,
    seeds=10,
    found_by=(COUNTED, EXISTS),
    alter=calm,
)
def counts_later(patch: Patch) -> None:
    honest, commit = Claims._more, Transactions._repeated
    later: dict[Address, tuple[Counted, ...]] = {}

    def more(found: Any, marks: Any) -> Any:
        wanted = honest(found, marks)
        for at in [at for at, (each, *_) in wanted.items() if isinstance(each, Counted) and each.changes]:
            later[at] = wanted.pop(at)
        return wanted

    async def repeated(self: Transactions, asked: Asked) -> Receipt:
        later.clear()
        receipt = await commit(self, asked)
        counts = dict(later)
        if counts and asked.write.mutations:
            await self._attempted(Asked(Write(()), counts, ()), self._clock.now())
        return receipt

    unguarded(patch)
    patch.setattr(Claims, "_more", staticmethod(more))
    patch.setattr(Claims, "check", lambda *_: None)
    patch.setattr(Transactions, "_repeated", repeated)


@plant(
    "a deletion does not look at the count",
    workloads=WORKLOADS,
    seeds=10,
    found_by=(EXISTS, COUNTED),
    alter=calm,
)
def uncounted(patch: Patch) -> None:
    honest = Counted.on

    def on(self: Counted, before: bytes | None) -> Any:
        return honest(msgspec.structs.replace(self, cascades=None), before)

    patch.setattr(Counted, "on", on)


@plant(
    "a cascade leaves documents that it does not know",
    workloads=WORKLOADS,
    seeds=10,
    found_by=(EXISTS, COUNTED),
    alter=calm,
)
def leaves_unknown(patch: Patch) -> None:
    honest = Counted.on

    def on(self: Counted, before: bytes | None) -> Any:
        known = self.cascades is not None and {*self.cascades}
        return honest(msgspec.structs.replace(self, cascades=None) if known else self, before)

    forgets(patch)
    patch.setattr(Counted, "on", on)


def forgets(patch: Patch) -> None:
    """A cascade that misses a document is refused by the count: no bug by itself."""
    honest = claims.referring

    async def referring(*arguments: Any) -> Any:
        return (await honest(*arguments))[1:]

    patch.setattr(claims, "referring", referring)


@plant(
    "who turns to another document stays counted",
    workloads=WORKLOADS,
    seeds=10,
    found_by=(COUNTED, DELETED),
    alter=calm,
)
def keeps(patch: Patch) -> None:
    honest = claims.needed

    def needed(documents: Any, marks: Any) -> Any:
        found = honest(documents, marks)
        for at, each in found.items():
            if isinstance(each, Counted):
                kept = {name: by for name, by in each.changes.items() if by > 0}
                found[at] = msgspec.structs.replace(each, changes=kept)
        return found

    unguarded(patch)
    patch.setattr(claims, "needed", needed)


@plant("an aborted transaction stays counted", workloads=WORKLOADS, seeds=10, found_by=(COUNTED,), alter=calm)
def counts_aborted(patch: Patch) -> None:
    honest = decided.resolved

    def resolved(register: str, value: Any, outcome: Outcome) -> Any:
        if register.startswith(f"{REFERRED}/"):
            outcome = msgspec.structs.replace(
                outcome, committed=True, revisions={**outcome.revisions, register: value.revision}
            )
        return honest(register, value, outcome)

    for module in (proposer, registers):
        patch.setattr(module, "resolved", resolved)


@plant("what is referred to is not held", workloads=WORKLOADS, seeds=10, found_by=(EXISTS,), alter=crowded)
def unheld(patch: Patch) -> None:
    honest = claims.needed

    def needed(*given: Any) -> Any:
        return {at: each for at, each in honest(*given).items() if not isinstance(each, Exists)}

    unguarded(patch)
    patch.setattr(claims, "needed", needed)


@plant(
    "references go by what the region shows",
    workloads=WORKLOADS,
    seeds=25,
    found_by=(EXISTS, COUNTED),
    alter=calm,
)
def supposes(patch: Patch) -> None:
    unguarded(patch)
    patch.setattr(Claims, "check", lambda *_: None)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_is_found_where_a_cascade_only_forgets(monkeypatch: Patch) -> None:
    forgets(monkeypatch)
    is_no_bug_by_itself(PLANTS["a cascade leaves documents that it does not know"])
