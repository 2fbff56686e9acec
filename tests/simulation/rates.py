"""How often fresh seeds find each planted bug: `python -m tests.simulation.rates [--minutes N] [--seeds N] [BUG...]`.

A Markdown table is printed. It has two rates per thousand seeds for each bug, each with the number of seeds it comes
from. *Helped* seeds run as the test of the bug does, with its workloads and faults. *Plain* seeds run as drawn, as
`atoll simulate` does. A failure counts as found when it names a checker of the bug. Other failures are printed beside
it. Every bug has the same share of the time, and a seed that has begun is finished. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple, TextIO

import pytest

from atoll.cli.simulate import fresh_seed
from atoll.simulation.plan import draw
from atoll.simulation.runner import run

from . import (
    test_planted,
    test_planted_builds,
    test_planted_clocks,
    test_planted_fallbacks,
    test_planted_floors,
    test_planted_heirs,
    test_planted_interface,
    test_planted_losses,
    test_planted_members,
    test_planted_nodes,
    test_planted_purges,
    test_planted_references,
    test_planted_registers,
    test_planted_sagas,
    test_planted_strong_references,
    test_planted_transactions,
    test_planted_unique,
)
from .planting import Plant, planted_plan

_MODULES = (
    test_planted,
    test_planted_builds,
    test_planted_clocks,
    test_planted_fallbacks,
    test_planted_floors,
    test_planted_heirs,
    test_planted_interface,
    test_planted_losses,
    test_planted_members,
    test_planted_nodes,
    test_planted_purges,
    test_planted_references,
    test_planted_registers,
    test_planted_sagas,
    test_planted_strong_references,
    test_planted_transactions,
    test_planted_unique,
)
PLANTS: dict[str, Plant] = {name: plant for module in _MODULES for name, plant in module.PLANTS.items()}
_HELPED = 1 / 3
"""Of the time of a bug: helped seeds find more, so fewer of them say as much."""


class Rate(NamedTuple):
    """What so many seeds came to."""

    seeds: int
    found: int = 0
    other: int = 0

    def __str__(self) -> str:
        others = f", {self.other} other" if self.other else ""
        return f"{1000 * self.found / self.seeds:.0f} ({self.found} of {self.seeds}{others})"


def both_rates(name: str, seeds: range, share_s: float) -> tuple[Rate, Rate]:
    """Helped and plain, with the bug put in."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[name].bug(patch)
        helped = _rate(PLANTS[name], seeds, share_s * _HELPED, helped=True)
        return helped, _rate(PLANTS[name], seeds, share_s * (1 - _HELPED), helped=False)


def _rate(planted: Plant, seeds: range, share_s: float, *, helped: bool) -> Rate:
    """Of at least one seed. Seeds that fail for another reason are counted apart."""
    until_s, ran, failures = time.monotonic() + share_s, 0, []
    for seed in seeds:
        plan, prepare = (planted_plan(planted, seed), planted.prepare) if helped else (draw(seed), None)
        failure = run(plan, prepare=prepare).failure
        ran += 1
        if failure is not None:
            failures.append(failure.invariant in planted.found_by)
        if time.monotonic() > until_s:
            break
    return Rate(ran, sum(failures), len(failures) - sum(failures))


def rates(names: list[str], seeds: range, share_s: float, jobs: int) -> Iterator[tuple[str, Rate, Rate]]:
    """name, helped, plain; each bug in a process of its own, since it stays in its process."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        pending = [(name, pool.submit(both_rates, name, seeds, share_s)) for name in names]
        for name, found in pending:
            yield name, *found.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", help="all, if none is named")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all bugs together")
    parser.add_argument("--seeds", type=int, default=100, help="at most, for each rate")
    parser.add_argument("--first", type=int, default=fresh_seed())
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if unknown := {*given.bugs} - PLANTS.keys():
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    names = given.bugs or list(PLANTS)
    share_s = given.minutes * 60 * given.jobs / len(names)
    seeds = range(given.first, given.first + given.seeds)
    _print(sys.stdout, f"Seeds from {given.first} on.\n\n| planted bug | helped | plain |\n|---|---|---|")
    for done, (name, helped, plain) in enumerate(rates(names, seeds, share_s, given.jobs), start=1):
        _print(sys.stdout, f"| {name} | {helped} | {plain} |")
        _print(sys.stderr, f"{done} of {len(names)} bugs")


def _print(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
