"""A saga of three steps in one region, beside workflows of three steps in DBOS and in Temporal.

All run in the program that starts them, and record each step on the disk: Atoll in SQLite, DBOS in a PostgreSQL server
beside it, Temporal in its development server. The first and the third step change a document, the second one acts
outside and takes no time. Temporal keeps no documents, so all its steps do nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import atoll
from atoll import Collection, Counter, Increment, Saga, step
from bench.callers import Calls, apart, drive
from bench.figures import Figure, Goal
from bench.peers import NotMeasured, dbos_workflows, temporal_workflows
from bench.rounds import Say, Scale, interleaved, middle

_AT_ONCE = 32
_P50_MS, _PER_SECOND = 10.0, 200.0
_WAIT_S = 60.0


class Beside(NamedTuple):
    """A peer, as its figures name it."""

    label: str
    durability: str


class Goods(Collection):
    taken: Counter


class Sent(Collection):
    sku: str


class Checkout(Saga):
    payment: str = ""

    @step(compensate="put_back")
    async def reserve(self, tx: object) -> None:
        tx.update(Goods, "tea", taken=Increment(1))  # type: ignore[attr-defined]

    async def put_back(self, tx: object) -> None:
        tx.update(Goods, "tea", taken=Increment(-1))  # type: ignore[attr-defined]

    @step(effect=True)
    async def charge(self, key: str) -> None:
        await asyncio.sleep(0)  # another company's answer
        self.payment = f"payment {key}"

    @step
    async def ship(self, tx: object) -> None:
        tx.put(Sent(key=self.key, sku="tea"))  # type: ignore[attr-defined]


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures: list[Figure] = []
    for peer in (dbos_workflows, temporal_workflows):
        beside = Beside(peer.LABEL, peer.DURABILITY)
        try:
            with peer.serving(folder, say, install=scale.install) as theirs:
                figures += _beside(scale, folder, say, beside, theirs)
        except NotMeasured as reason:
            for callers, count in _loads(scale):
                ours = [_ours(folder, callers, count) for _ in range(scale.rounds)]
                figures.append(_figure(beside, callers, ours, [], str(reason)))
    return figures


def _loads(scale: Scale) -> list[tuple[int, int]]:
    """Callers, and how many sagas they start."""
    return [(1, scale.sagas // 4), (_AT_ONCE, scale.sagas)]


def _beside(
    scale: Scale, folder: Path, say: Say, beside: Beside, theirs: Callable[[int, int], Calls]
) -> Iterator[Figure]:
    for callers, count in _loads(scale):
        ours, others = interleaved(
            scale.rounds,
            say,
            f"sagas of three steps beside {beside.label}, {callers} at once",
            partial(_ours, folder, callers, count),
            partial(theirs, callers, count),
        )
        yield _figure(beside, callers, ours, others)


def _ours(folder: Path, callers: int, count: int) -> Calls:
    return apart(sagas, mkdtemp(prefix="atoll-", dir=folder), callers, count)


async def sagas(folder: str, callers: int, count: int) -> Calls:
    """In a region of its own, from the start of each to its end."""
    async with atoll.open([Checkout, Goods, Sent], data=folder) as db:

        async def one(number: int) -> None:
            found = await db.sagas.start(Checkout(key=f"saga-{number}"), wait_s=_WAIT_S)
            assert found.status == "completed", found

        return await drive([one] * callers, range(count))


def _figure(
    beside: Beside, callers: int, ours: list[Calls], theirs: list[Calls], not_measured: str = ""
) -> Figure:
    singly = callers == 1
    what = "p50" if singly else "rate"

    def of(calls: Calls) -> float:
        return calls.p50_ms if singly else calls.per_second

    return Figure(
        name="sagas",
        measure=f"sagas of three steps in one region, {callers} at once, {what}, beside {beside.label.split()[0]}",
        unit="ms" if singly else "/s",
        value=middle(ours, of),
        peer=beside.label,
        peer_value=middle(theirs, of) if theirs else None,
        goal=Goal("value", at_most=_P50_MS) if singly else Goal("value", at_least=_PER_SECOND),
        durability=beside.durability if theirs else "",
        not_measured=not_measured,
        details={
            "atoll_rounds": [of(calls) for calls in ours],
            "peer_rounds": [of(calls) for calls in theirs],
            "p99_ms": middle(ours, lambda calls: calls.p99_ms),
        },
    )
