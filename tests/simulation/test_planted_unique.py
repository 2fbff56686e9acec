"""Bugs that were put in on purpose into unique fields: the simulator finds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from atoll.commit.identity import Address
from atoll.consensus.claims import Claim
from atoll.documents.mutation import Put
from atoll.region import claims, proposer
from atoll.region.claims import Claims
from atoll.simulation.unique import FREED, HELD_ONCE

from .planting import Patch, Plant, is_found, planting
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


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)
