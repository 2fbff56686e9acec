"""How often fresh seeds find each planted bug: `python -m tests.simulation.rates [--seeds N] [--first N] [BUG...]`.

Two rates per thousand seeds are printed for each bug. *Helped* seeds run as the test of the bug does, with its
workloads and faults. *Plain* seeds run as drawn, as `atoll simulate` does. A failure counts as found when it names
a checker of the bug. Other failures are printed beside it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.table import Table

from atoll.cli.simulate import fresh_seed
from atoll.simulation.plan import draw
from atoll.simulation.runner import run

from . import test_planted, test_planted_interface, test_planted_losses, test_planted_nodes
from .planting import Plant, planted_plan

PLANTS: dict[str, Plant] = {
    name: plant
    for module in (test_planted, test_planted_nodes, test_planted_losses, test_planted_interface)
    for name, plant in module.PLANTS.items()
}


class Rate(NamedTuple):
    """What so many seeds came to."""

    seeds: int
    found: int = 0
    other: int = 0

    def __str__(self) -> str:
        others = f" (+{1000 * self.other / self.seeds:.0f})" if self.other else ""
        return f"{1000 * self.found / self.seeds:.0f}{others}"


def rate(name: str, seeds: range, *, helped: bool) -> Rate:
    """With the bug put in. Seeds that fail for another reason are counted apart."""
    planted = PLANTS[name]
    failures = []
    with pytest.MonkeyPatch.context() as patch:
        planted.bug(patch)
        for seed in seeds:
            plan, prepare = (planted_plan(planted, seed), planted.prepare) if helped else (draw(seed), None)
            failure = run(plan, prepare=prepare).failure
            if failure is not None:
                failures.append(failure.invariant in planted.found_by)
    return Rate(len(seeds), sum(failures), len(failures) - sum(failures))


def rates(names: list[str], seeds: range, jobs: int) -> Iterator[tuple[str, Rate, Rate]]:
    """name, helped, plain; each in a process of its own, since a bug stays in its process."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        pending = [
            (name, *(pool.submit(rate, name, seeds, helped=helped) for helped in (True, False)))
            for name in names
        ]
        for name, helped, plain in pending:
            yield name, helped.result(), plain.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", help="all, if none is named")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=fresh_seed())
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if unknown := {*given.bugs} - PLANTS.keys():
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    seeds = range(given.first, given.first + given.seeds)
    table = Table(title=f"found per thousand seeds, of {len(seeds)} from {given.first} on (+ other failures)")
    for column in ("planted bug", "helped", "plain"):
        table.add_column(column, justify="left" if column == "planted bug" else "right")
    for name, helped, plain in rates(given.bugs or list(PLANTS), seeds, given.jobs):
        table.add_row(name, str(helped), str(plain))
    Console().print(table)


if __name__ == "__main__":
    main()
