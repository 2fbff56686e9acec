"""Bugs that were put in on purpose between a client and its region: the real client drives the real application."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atoll.client.calls import Calls
from atoll.client.exchange import Exchanges, SessionState
from atoll.errors import AtollError, Indefinite
from atoll.http import exchange
from atoll.simulation import interface
from atoll.simulation.plan import Plan
from atoll.store.memory.tables import MemoryTables

from .planting import Patch, Plant, is_found, is_no_bug_by_itself, planting
from .test_planted_losses import losing

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def far_apart(plan: Plan) -> Plan:
    """Far enough that a client which moves is there before its writes."""
    plan = losing(plan)
    return replace(plan, one_way_s=dict.fromkeys(plan.one_way_s, 0.4), mean_s=0.08)


@plant(
    "a session forgets what it has seen",
    workloads=("interface",),
    seeds=4,
    found_by=(interface.READS_ITS_WRITES,),
    alter=far_apart,
)
def token_forgotten(patch: Patch) -> None:
    answered = SessionState.answered

    def forgetful(self: SessionState, region: str, headers: Any) -> None:
        answered(self, region, headers)
        self.token = None

    patch.setattr(SessionState, "answered", forgetful)


@plant(
    "a write in doubt is sent to another region",
    workloads=("interface",),
    seeds=6,
    found_by=(interface.COUNTS_ONCE,),
    alter=far_apart,
)
def sent_elsewhere(patch: Patch) -> None:
    note = Exchanges._note

    def unpinned(self: Exchanges, region: str, failure: AtollError, attempts: Any, *, answered: bool) -> None:
        note(self, region, failure, attempts, answered=answered)
        if isinstance(failure, Indefinite) and attempts.key is not None:
            attempts.pinned = None
            self.router.settle(attempts.key)

    patch.setattr(Exchanges, "_note", unpinned)


@plant(
    "a condition is not sent",
    workloads=("interface",),
    seeds=1,
    found_by=(interface.MEETS_ITS_CONDITION,),
    alter=far_apart,
)
def unconditional(patch: Patch) -> None:
    put = Calls.put
    patch.setattr(Calls, "put", lambda self, model, if_match, *, create: put(self, model, None, create=False))


@plant(
    "a listing shows what it showed before",
    workloads=("interface",),
    seeds=1,
    found_by=(interface.READS_ITS_WRITES, interface.LISTS_WHAT_IT_SAYS),
    alter=far_apart,
)
def listed_before(patch: Patch) -> None:
    scan = MemoryTables.scan
    shown: dict[tuple[int, str, str], Any] = {}

    def again(self: MemoryTables, collection: str, *, prefix: str = "", **options: Any) -> Any:
        place = (id(self), collection, prefix)
        if place not in shown:
            shown[place] = scan(self, collection, prefix=prefix, **options)
        return shown[place]

    patch.setattr(MemoryTables, "scan", again)


@plant(
    "a problem does not say what it is",
    workloads=("interface",),
    seeds=1,
    found_by=(interface.HAS_A_TYPE,),
    alter=far_apart,
)
def untyped(patch: Patch) -> None:
    patch.setattr(exchange, "problem", lambda error: (400, b'{"title": "no"}'))


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


def test_nothing_is_found_without_a_bug() -> None:
    is_no_bug_by_itself(PLANTS["a condition is not sent"])
