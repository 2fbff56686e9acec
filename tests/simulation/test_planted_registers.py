"""Bugs that were put in on purpose into what a majority of regions decides: the simulator finds each.

`tests/unit/consensus/test_model.py` finds those in acceptors, which need more contention than regions have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from atoll.commit.identity import Address
from atoll.consensus import round
from atoll.consensus.decided import Decided
from atoll.region import joining, voting
from atoll.region.joining import Joiner
from atoll.region.read_leases import ReadLeases
from atoll.region.reader import Reader
from atoll.region.releasing import Releasing
from atoll.replication.messages import VoteCall
from atoll.simulation.plan import Fault, Plan, with_witness

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)

LINEARIZABLE = "strong documents are linearizable"
ONCE = "a register decides each revision once"
FOUND_BY = (LINEARIZABLE, ONCE)


def busy(plan: Plan) -> Plan:
    """Nothing fails, and many wait for each other."""
    return replace(losing(plan), clients=6, mean_s=0.02)


def forgetting(plan: Plan) -> Plan:
    """A region loses its disk as often as it is cut off from one peer and then from the other."""
    faults = []
    for at in (0.0, 5.0, 10.0, 15.0):
        faults.append(Fault("partition", at, at + 2.0, ("virginia",)))
        faults.append(Fault("lost_disk", at + 2.0, at + 2.1, ("frankfurt",)))
        faults.append(Fault("partition", at + 2.1, at + 4.5, ("tokyo",)))
    return replace(losing(plan, *faults), clients=16, mean_s=0.02, duration_s=20.0)


@plant("one region decides", workloads=("orders",), seeds=10, found_by=FOUND_BY, alter=busy)
def decides_alone(patch: Patch) -> None:
    patch.setattr(round, "majority", lambda voters: 1)


@plant("a lost disk votes on", workloads=("orders",), seeds=10, found_by=FOUND_BY, alter=forgetting)
def votes_on(patch: Patch) -> None:
    async def join_at_once(self: Joiner, incarnation: int) -> None:
        first = voting.first_set(self._voting.named)
        await self._group_commit.commit(joining._Begin(self._site.name, incarnation, first))
        self._voting.hear(first)
        await self._voting.reload()

    patch.setattr(Joiner, "_join_as", join_at_once)


@plant(
    "a strong read is of the region's own copy",
    workloads=("orders",),
    seeds=10,
    found_by=FOUND_BY,
    alter=busy,
)
def reads_its_own(patch: Patch) -> None:
    honest = Reader.read

    async def read(self: Reader, collection: str, key: str, *options: Any) -> Any:
        if self._registers.concerns_reads(collection):
            return await self.read_here(collection, key)
        return await honest(self, collection, key, *options)

    patch.setattr(Reader, "read", read)


def leasing(plan: Plan) -> Plan:
    """Regions are cut off one after the other, each for longer than a lease."""
    faults = [
        Fault("partition", at, at + 2.5, (("tokyo", "frankfurt", "virginia")[number % 3],))
        for number, at in enumerate((1.0, 4.0, 7.0, 10.0, 13.0, 16.0))
    ]
    return replace(losing(plan, *faults), clients=16, mean_s=0.02, duration_s=19.0)


@plant(
    "a lease is trusted past its end",
    workloads=("orders",),
    seeds=10,
    found_by=(LINEARIZABLE,),
    alter=leasing,
)
def trusts_for_long(patch: Patch) -> None:
    honest = ReadLeases.decided

    def decided(self: ReadLeases, address: Address, after: Decided, lease_ms: int, since_s: float) -> None:
        honest(self, address, after, lease_ms, since_s + 5.0)

    patch.setattr(ReadLeases, "decided", decided)


def witnessed(plan: Plan) -> Plan:
    """A region is cut off, while the other one writes with the witness. Then that one loses its disk."""
    faults = []
    for at in (0.5, 6.5, 12.5):
        faults.append(Fault("partition", at, at + 4.0, ("frankfurt",)))
        faults.append(Fault("lost_disk", at + 4.0, at + 4.1, ("tokyo",)))
    plan = losing(plan, regions=("frankfurt", "tokyo"))
    plan = replace(with_witness(plan), clients=6, mean_s=0.03, duration_s=18.0)
    return replace(plan, faults=tuple(faults), one_way_s=dict.fromkeys(plan.one_way_s, 0.05))


@plant(
    "a witness drops values without asking",
    workloads=("orders",),
    seeds=10,
    found_by=FOUND_BY,
    alter=witnessed,
)
def drops_at_once(patch: Patch) -> None:
    async def holds_all(self: Releasing, region: str, call: VoteCall) -> Sequence[bool]:
        return [True] * len(call.requests)

    patch.setattr(Releasing, "_asked", holds_all)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "one region decides",
        "a lost disk votes on",
        "a lease is trusted past its end",
        "a witness drops values without asking",
    ],
)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    """To cut off regions, and to lose disks, breaks nothing by itself."""
    is_no_bug_by_itself(PLANTS[name])
