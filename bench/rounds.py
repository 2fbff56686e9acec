"""How much is measured, and in which order: this side and the other in turn, so that both meet the same machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
Say = Callable[[str], None]
"""Tells whoever waits what is being measured now."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a run."""

    rounds: int = 3
    """Of each side; medians are reported."""
    seconds: float = 4.0
    """Of one round of writes: longer than a checkpoint's cycle, which is a second in Atoll."""
    preloaded: int = 100_000
    """Documents that are there before anything is measured."""
    requests: int = 20_000
    """In one round over HTTP."""
    reads: int = 30_000
    entries: int = 40_000
    """Applied in one round."""
    samples: int = 60
    """Single writes whose propagation is timed, per delay."""
    resident_documents: int = 1_000_000
    resident_seconds: float = 15.0
    """Of writing on after the load, to see whether memory grows."""
    rows: int = 50_000
    """Replicated in one round, end to end."""
    pouch_rows: int = 5_000
    """The same for pouchdb-server; a fifth of them one by one."""
    sagas: int = 2_000
    """In one round, many at once; a quarter of them one by one."""
    conflicts: int = 10_000
    """In one round, for each strategy."""
    failures: int = 3
    """Of each kind; the worst counts."""
    simulated_failures: int = 50
    """Of each kind, on virtual time."""
    down_seconds: float = 5.0
    """How long a lost region and a cut link stay so."""
    growth_documents: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    growth_regions: tuple[int, ...] = (2, 3, 5, 7, 9)
    stores: tuple[str, ...] = ("sqlite",)
    """Where regions that are held against PostgreSQL's replication keep their documents: `sqlite`, or `postgresql`
    for a server each."""
    install: bool = True
    """Whether peers may be installed from their package registries when they are not here yet."""


FULL = Scale()
QUICK = Scale(
    rounds=3,
    seconds=1.0,
    preloaded=10_000,
    requests=3_000,
    reads=10_000,
    entries=10_000,
    samples=10,
    resident_documents=100_000,
    resident_seconds=4.0,
    rows=2_000,
    pouch_rows=1_000,
    sagas=400,
    conflicts=800,
    failures=1,
    simulated_failures=5,
    down_seconds=1.0,
    growth_documents=(1_000, 10_000),
    growth_regions=(2, 3),
    install=False,
)


def interleaved(
    rounds: int, say: Say, what: str, ours: Callable[[], A], theirs: Callable[[], B]
) -> tuple[list[A], list[B]]:
    """Ours, theirs, ours, theirs, …; the results of each, in order."""
    mine: list[A] = []
    others: list[B] = []
    for number in range(1, rounds + 1):
        say(f"{what}: Atoll, round {number} of {rounds}")
        mine.append(ours())
        say(f"{what}: its peer, round {number} of {rounds}")
        others.append(theirs())
    return mine, others


def middle(results: Sequence[A], figure: Callable[[A], float]) -> float:
    """The median of one figure over the rounds."""
    return median(figure(result) for result in results)
