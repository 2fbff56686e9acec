"""Bugs that were put in on purpose into sagas: the simulator finds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from atoll.documents.mutation import Mutation, Write
from atoll.region.saga_driving import Driving
from atoll.region.saga_marks import Mark, Marks
from atoll.region.saga_rights import Right, SagaRights
from atoll.region.saga_runner import Runner
from atoll.sagas import instance as instances
from atoll.sagas import protocol
from atoll.sagas.instance import Instance
from atoll.sagas.rights import Watch
from atoll.schema.saga import SagaSchema
from atoll.simulation.outside import ONE_REGION
from atoll.simulation.plan import Fault, Plan
from atoll.simulation.sagas import ENDS, HEARD, IN_ORDER, NOTHING_HALF, ONCE, ONE_ENTRY, STABLE

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def calm(plan: Plan) -> Plan:
    return replace(losing(plan), clients=3, mean_s=0.2)


def moving(plan: Plan) -> Plan:
    """One region after the other is cut off for longer than its right lasts, so that another takes over."""
    names = ("tokyo", "frankfurt", "virginia")
    cuts = [Fault("partition", 2.0 + 8.0 * at, 9.0 + 8.0 * at, (name,)) for at, name in enumerate(names)]
    options = replace(plan.options, saga_lease_s=3.0)
    plan = losing(replace(plan, options=options), *cuts)
    return replace(plan, clients=3, mean_s=0.1, duration_s=27.0)


def crowded(plan: Plan) -> Plan:
    return replace(moving(plan), clients=6, mean_s=0.06)


@plant("it is undone twice", workloads=("sagas",), seeds=10, found_by=(IN_ORDER, ONCE), alter=calm)
def undoes_twice(patch: Patch) -> None:
    honest = protocol._onwards

    def onwards(instance: Instance, plan: SagaSchema, now_ms: int) -> Instance:
        undone = [each for each in instance.done if (each.step, each.outcome) == (instance.step, "undone")]
        if instance.backwards and len(undone) == 1:
            return instance
        return honest(instance, plan, now_ms)

    patch.setattr(protocol, "_onwards", onwards)


@plant(
    "a right is trusted past its end",
    workloads=("sagas",),
    seeds=20,
    found_by=(ONE_REGION, ONCE, IN_ORDER, HEARD),
    alter=moving,
)
def trusts_its_right(patch: Patch) -> None:
    def in_time(self: SagaRights, watch: Watch) -> bool:
        return watch.holds and watch.ready

    patch.setattr(SagaRights, "_in_time", in_time)


@plant(
    "a step and its record are two entries",
    workloads=("sagas",),
    seeds=5,
    found_by=(ONE_ENTRY, ONCE, NOTHING_HALF),
    alter=calm,
)
def writes_apart(patch: Patch) -> None:
    honest = Driving._commit

    async def commit(
        self: Driving, before: bytes, after: Instance, mutations: Sequence[Mutation], right: Right
    ) -> bytes | None:
        if mutations:
            await self._writer.write(Write(tuple(mutations)), None)
        return await honest(self, before, after, (), right)

    patch.setattr(Driving, "_commit", commit)


@plant("what is due later is forgotten", workloads=("sagas",), seeds=5, found_by=(ENDS,), alter=calm)
def forgets_timers(patch: Patch) -> None:
    honest = Runner._offer

    def offer(self: Runner, key: str, text: bytes) -> None:
        if not instances.decoded(text).wake_ms:
            honest(self, key, text)

    patch.setattr(Runner, "_offer", offer)
    patch.setattr(Runner, "_park", lambda self, key, due_ms: None)


@plant("each attempt has a key of its own", workloads=("sagas",), seeds=10, found_by=(STABLE,), alter=calm)
def renames_effects(patch: Patch) -> None:
    from atoll.region import saga_steps

    def key(instance: Instance, method: str) -> str:
        return f"{method}/{instance.id}/{instance.attempts}"

    patch.setattr(saga_steps, "effect_key", key)


@plant(
    "documents are changed although another region may have done so",
    workloads=("sagas",),
    seeds=15,
    found_by=(ONCE, NOTHING_HALF, IN_ORDER),
    alter=crowded,
)
def has_no_doubts(patch: Patch) -> None:
    def doubts(self: Driving, instance: Instance) -> tuple[str, ...]:
        return ()

    patch.setattr(Driving, "doubts", doubts)


def killed(plan: Plan) -> Plan:
    """Regions die amid their commits, one after the other."""
    names = ("tokyo", "frankfurt", "virginia")
    deaths = [Fault("kill_in_commit", 0.5 + at, 1.4 + at, (names[at % 3],), 0.05) for at in range(12)]
    return replace(losing(plan, *deaths), clients=3, mean_s=0.05, duration_s=14.0)


@plant(
    "a transaction leaves no mark",
    workloads=("sagas",),
    seeds=15,
    found_by=(ONCE, NOTHING_HALF),
    alter=killed,
)
def leaves_no_mark(patch: Patch) -> None:
    async def commit(self: Marks, key: str, mutations: Sequence[Mutation], fields: Mapping[str, Any]) -> Mark:
        await self.transactions.commit(Write(tuple(mutations), brief=True))
        return Mark("done", dict(fields))

    patch.setattr(Marks, "commit", commit)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


@pytest.mark.parametrize(
    "name", ["it is undone twice", "a right is trusted past its end", "a transaction leaves no mark"]
)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    is_no_bug_by_itself(PLANTS[name])
