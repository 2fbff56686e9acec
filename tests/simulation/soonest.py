"""Which seed finds each planted bug at the least cost: `python -m tests.simulation.soonest [--jobs N] [BUG...]`.

Tests look there first; `soonest.json` keeps it. A seed that finds a bug no more costs its test a run, and nothing else.
Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from atoll.simulation.runner import run

from .planting import SOONEST, planted_plan, soonest
from .rates import PLANTS

_MORE = 4
"""Seeds that are tried after the first one that finds it."""


def soonest_of(name: str) -> int:
    """Raises AssertionError for a bug that no seed of its test finds."""
    planted, costs = PLANTS[name], dict[int, float]()
    with pytest.MonkeyPatch.context() as patch:
        planted.bug(patch)
        for seed in range(planted.seeds):
            if costs and seed > min(costs) + _MORE:
                break
            began_s = time.process_time()
            failure = run(planted_plan(planted, seed), prepare=planted.prepare).failure
            if failure is not None and failure.invariant in planted.found_by:
                costs[seed] = time.process_time() - began_s
    assert costs, f"{name}: not found within {planted.seeds} seeds"
    return min(costs, key=lambda seed: costs[seed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", help="all, if none is named")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if unknown := {*given.bugs} - PLANTS.keys():
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    names = given.bugs or list(PLANTS)
    found = {name: seed for name, seed in soonest().items() if name in PLANTS}
    # A bug stays in its process.
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        pending = [(name, pool.submit(soonest_of, name)) for name in names]
        for done, (name, seed) in enumerate(pending, start=1):
            found[name] = seed.result()
            sys.stderr.write(f"{done} of {len(names)} bugs: {name} by seed {found[name]}\n")
    SOONEST.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
