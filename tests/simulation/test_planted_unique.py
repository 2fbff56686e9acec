"""Bugs that were put in on purpose into unique fields: the simulator finds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from atoll.commit import batch
from atoll.commit.identity import Address
from atoll.conflicts import records
from atoll.consensus.claims import Claim
from atoll.documents.mutation import Put, Write
from atoll.region import claims, proposer
from atoll.region.claims import Claims
from atoll.region.holders import Holders
from atoll.simulation.unique import FREED, HELD_ONCE, SETTLED

from .planting import Patch, Plant, busy, is_found, is_no_bug_by_itself, planting
from .test_planted_transactions import crowded

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def unguarded(patch: Patch) -> None:
    patch.setattr(proposer, "check_claims", lambda *_: None)


@plant(
    "a value is taken whoever has it", workloads=("unique",), seeds=10, found_by=(HELD_ONCE,), alter=crowded
)
def takes(patch: Patch) -> None:
    honest = Claim.on

    def on(self: Claim, before: bytes | None) -> Any:
        if self.taker is None:
            return honest(self, before)
        return Put(self.collection, self.key, msgspec.json.encode({"holder": self.taker}))

    patch.setattr(Claim, "on", on)


@plant("an update frees nothing", workloads=("unique",), seeds=10, found_by=(FREED,), alter=crowded)
def keeps(patch: Patch) -> None:
    honest = claims.claims_between

    def between(documents: Any) -> Mapping[Address, Claim]:
        return {at: claim for at, claim in honest(documents).items() if claim.taker is not None}

    unguarded(patch)
    patch.setattr(claims, "claims_between", between)


@plant(
    "claims go by what the region shows",
    workloads=("unique",),
    seeds=25,
    found_by=(HELD_ONCE, FREED),
    alter=crowded,
)
def supposes(patch: Patch) -> None:
    unguarded(patch)
    patch.setattr(Claims, "check", lambda *_: None)


AUDIT = (
    "the audit is the same in every region",
    "every lost value is in the audit",
    "the audit holds nothing else",
    "a record says what happened",
)


@plant(
    "nobody settles duplicates",
    workloads=("duplicates",),
    seeds=15,
    found_by=(SETTLED,),
    alter=lambda plan: busy(crowded(plan)),
)
def leaves(patch: Patch) -> None:
    async def settle(self: Holders, *_: Any) -> bool:
        return False

    patch.setattr(Holders, "settle", settle)


def quiet(patch: Patch) -> None:
    """A region says who has a value once it hears of it by a peer's entry: no bug by itself."""

    async def as_asked(self: Holders, write: Write, known: Any) -> Write:
        return write

    patch.setattr(Holders, "_with_holders", as_asked)


@plant("nobody says who has a value", workloads=("duplicates",), seeds=10, found_by=(SETTLED,), alter=crowded)
def unsaid(patch: Patch) -> None:
    quiet(patch)
    unreviewed(patch)


@plant(
    "what comes back in a conflict is not said",
    workloads=("duplicates",),
    seeds=40,
    found_by=(SETTLED,),
    alter=crowded,
)
def unreviewed(patch: Patch) -> None:
    async def review(self: Holders, strike: Any) -> None:
        pass

    patch.setattr(Holders, "_review", review)


@plant(
    "the first is the one that came first", workloads=("duplicates",), seeds=10, found_by=AUDIT, alter=crowded
)
def as_they_came(patch: Patch) -> None:
    honest = records.holders_in

    def found(document: Any) -> Any:
        order = list(document.registers)
        return sorted(honest(document), key=lambda holder: order.index(f"holders.{holder.key}"))

    patch.setattr(records, "holders_in", found)


@plant("a settled duplicate is forgotten", workloads=("duplicates",), seeds=10, found_by=AUDIT, alter=crowded)
def forgets(patch: Patch) -> None:
    honest = batch.resolved_records

    def resolved(draft: Any, key: str) -> Any:
        return [] if draft.rules.holders else honest(draft, key)

    patch.setattr(batch, "resolved_records", resolved)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_is_found_where_a_writer_keeps_quiet(monkeypatch: Patch) -> None:
    quiet(monkeypatch)
    is_no_bug_by_itself(PLANTS["nobody says who has a value"])
