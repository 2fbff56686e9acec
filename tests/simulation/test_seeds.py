"""A few seeds in every test run, some of them new each time; `make simulate` runs a thousand new ones."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.cli.simulate import Subject, fresh_seed, run_seed
from atoll.simulation.application import built_in
from atoll.simulation.failures import LivenessViolation, SafetyViolation
from atoll.simulation.plan import EXTRA_WORKLOADS, KINDS, LOSSES, NODE_KINDS, WORKLOADS, Fault, Plan, draw
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut, shrink

SHOP = Path(__file__).parents[2] / "src" / "atoll" / "cli" / "templates" / "shop.py"


FOUND = (322, 468, 951)
"""Snapshots that one of several nodes takes over: another one's link came too late once more; a lease was never given
back; another one wrote beside a vector that had just been adopted. No story can tell them, since they need what happens
inside one command."""


@functools.cache
def ran(seed: int) -> Report:
    return run(draw(seed))


@pytest.mark.parametrize("seed", [*range(24), *FOUND])
def test_seed_finds_nothing(seed: int) -> None:
    report = ran(seed)
    assert report.failure is None, f"atoll simulate --seed {seed}: {report.failure}"
    assert report.entries > 0


def test_seeds_that_never_ran_before_find_nothing() -> None:
    """A failure is a bug in Atoll or in the oracle, and never a seed to be avoided."""
    first = fresh_seed()
    for seed in range(first, first + 4):
        report = run(draw(seed))
        assert report.failure is None, f"atoll simulate --seed {seed}: {report.failure}"


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 8])
def test_a_users_own_application_runs(seed: int) -> None:
    report = run_seed(seed, Subject(SHOP), Cut())
    assert report.failure is None, str(report.failure)


def test_links_are_watched_only_where_no_region_restarts() -> None:
    seeds = (*range(300), 763482808)
    healthy = [plan for seed in seeds if "freshness" in (plan := draw(seed)).workloads]
    assert healthy
    assert not any(plan.faults for plan in healthy)


def test_a_users_own_application_keeps_its_declarations() -> None:
    """Restarts with other versions are of the built-in ones."""
    subject = Subject(SHOP)
    plans = [subject.plan(seed, subject.application()) for seed in range(60)]
    assert any(draw(seed).versions for seed in range(60))
    assert not any(plan.versions or any(fault.kind == "upgrade" for fault in plan.faults) for plan in plans)


def test_a_deployment_can_be_as_large_as_one_wants() -> None:
    """Few large ones in a test run: each entry goes to every region."""
    plan = draw(7, regions=20)
    assert len(plan.regions) == 20
    report = run(Cut(workloads=("counters", "batches"), duration_s=4.0).apply(plan))
    assert report.failure is None, str(report.failure)
    assert report.entries > 0


def test_a_seed_replays_in_another_process_with_other_hashes() -> None:
    program = "from atoll.simulation import plan, runner; print(runner.run(plan.draw(7)).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert digests == {ran(7).digest + "\n"}


def test_a_run_does_not_depend_on_what_ran_before_it() -> None:
    """Such as the order of a set of objects, which goes by their addresses."""
    seeds = (4, 0, 2)
    before = {seed: ran(seed).digest for seed in seeds}
    assert {seed: run(draw(seed)).digest for seed in reversed(seeds)} == before


def test_seeds_draw_every_fault_and_every_workload() -> None:
    plans = [draw(seed) for seed in range(300)]
    assert {fault.kind for plan in plans for fault in plan.faults} == {*KINDS, *NODE_KINDS, *LOSSES}
    assert {name for plan in plans for name in plan.workloads} == {*WORKLOADS, *EXTRA_WORKLOADS}
    assert {len(plan.regions) for plan in plans} == {2, 3, 4, 5, 6, 7}
    assert {count for plan in plans for count in plan.nodes.values()} == {2, 3, 4}
    of_nodes = {fault.kind for plan in plans for fault in plan.faults if "/" in fault.regions[0]}
    assert of_nodes == {*NODE_KINDS}


def test_a_failing_run_is_cut_down_to_what_fails() -> None:
    plan = next(plan for seed in range(100) if len((plan := draw(seed)).faults) >= 3)

    def fails_with_fault_one(smaller: Plan) -> Report:
        report = Report(smaller)
        if plan.faults[1]._replace(until_s=0.0) in [each._replace(until_s=0.0) for each in smaller.faults]:
            report.failure = LivenessViolation("made up", "because of fault 1")
        return report

    cut, report = shrink(plan, fails_with_fault_one(plan), fails_with_fault_one)
    assert cut.faults == (1,)
    assert len(report.plan.workloads) == 1
    assert "--faults 1" in cut.arguments()


def test_a_cut_ends_faults_with_the_run() -> None:
    plan = Cut(faults=(0,), duration_s=1.0).apply(_with_fault(Fault("kill", 0.5, 6.0, ("tokyo",))))
    assert plan.faults[0].until_s == 1.0


def _with_fault(fault: Fault) -> Plan:
    from dataclasses import replace

    return replace(draw(0), faults=(fault,), duration_s=8.0)


def test_a_failure_comes_back_from_another_process() -> None:
    failure = pickle.loads(pickle.dumps(SafetyViolation("documents converge", "they do not")))
    assert (failure.exit_code, failure.invariant, failure.message) == (3, "documents converge", "they do not")


def test_the_built_in_application_is_made_once() -> None:
    assert built_in() is built_in()


BAD_SHOP = '''
import itertools
from atoll import Collection

calls = itertools.count()

def by_turns(versions):
    """Keeps state, so regions that resolve more often than others come to something else."""
    alive = [version for version in versions if version is not None]
    return {"total": next(calls) % 5} if alive else None

class Cart(Collection, resolve=by_turns):
    total: int = 0
'''


def test_a_merge_function_with_a_state_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(BAD_SHOP)
    reports = [run_seed(seed, Subject(tmp_path / "shop.py"), Cut()) for seed in range(3)]
    failures = [report.failure for report in reports if report.failure is not None]
    assert failures
    assert isinstance(failures[0], SafetyViolation)
