"""`atoll simulate`: many deployments in one process, on virtual time, from seeds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape

from atoll.schema.application import Application
from atoll.simulation.failures import SimulationFailure
from atoll.simulation.geography import PLACES
from atoll.simulation.plan import WORKLOADS, Plan, draw
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut, shrink

_LONGEST = 600
_WORST_FIRST = (5, 3, 4)
"""Exit codes: a crash, a safety failure, a liveness failure."""


def simulate(  # noqa: PLR0917 — typer passes them by name
    seed: Annotated[int | None, typer.Option(help="Run this one seed, and say what it drew.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run so many seeds.")] = 100,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
    shrinking: Annotated[
        bool, typer.Option("--shrink", help="Cut a failing run down to a short one.")
    ] = False,
    regions: Annotated[
        int | None, typer.Option(min=2, max=len(PLACES), help="So many regions, instead of 2 to 7 as drawn.")
    ] = None,
    app: Annotated[
        Path | None, typer.Option(help="Write the collections of this file instead of the built-in ones.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = os.cpu_count() or 1,
    faults: Annotated[str | None, typer.Option(help="Keep these faults: 0,2, or none.")] = None,
    workloads: Annotated[str | None, typer.Option(help="Keep these: " + ", ".join(WORKLOADS) + ".")] = None,
    duration: Annotated[float | None, typer.Option(min=0.5, help="Virtual seconds of faults.")] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Clients of each workload.")] = None,
    detour: Annotated[
        bool, typer.Option(help="Before all is healed, let entries find a way around cuts.")
    ] = True,
) -> None:
    """Look for bugs: run whole deployments with faults, on virtual time, each from its seed.

    Exit codes: 3 for a safety failure, 4 for a liveness failure, 5 for a crash.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        cut = _cut(faults, workloads, duration, clients, detour)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    subject = Subject(app, regions)
    subject.application()  # says at once what is wrong with it
    if seed is not None:
        report = run_seed(seed, subject, cut)
        _show(console, report)
        failed = [report] if report.failure is not None else []
        for report in failed:
            _tell(console, report, subject, cut)
    else:
        failed = _many(console, range(first, first + seeds), subject, cut, jobs)
    if shrinking:
        for report in _one_of_each(failed):
            _shrink(console, report, subject, cut)
    codes = {report.failure.exit_code for report in failed if report.failure is not None}
    for code in _WORST_FIRST:
        if code in codes:
            raise typer.Exit(code)


class Subject(NamedTuple):
    """What is simulated, beside what a seed draws."""

    app: Path | None = None
    """Whose collections are written; None for the built-in ones."""
    regions: int | None = None
    """How many; None for a number that is drawn."""

    def application(self) -> Application | None:
        """Raises what loading the file raises."""
        if self.app is None:
            return None
        from atoll.schema.loading import load_application

        return load_application(self.app)

    def plan(self, seed: int, application: Application | None) -> Plan:
        if application is None:
            return draw(seed, regions=self.regions)
        return replace(draw(seed, application.regions(), self.regions), workloads=("traffic",))

    def arguments(self) -> list[str]:
        """As options of `atoll simulate`."""
        return [
            *([] if self.regions is None else [f"--regions {self.regions}"]),
            *([] if self.app is None else [f"--app {self.app}"]),
        ]


def run_seed(seed: int, subject: Subject, cut: Cut) -> Report:
    """One seed from its number alone, so that another process can run it too."""
    application = subject.application()
    return run(cut.apply(subject.plan(seed, application)), application)


def _many(console: Console, seeds: range, subject: Subject, cut: Cut, jobs: int) -> list[Report]:
    began = time.monotonic()
    failed: list[Report] = []
    unsolved: dict[str, int] = {}
    virtual_s, conflicts, writes, done = 0.0, 0, 0, 0
    with console.status("") as status:
        for report in _reports(seeds, subject, cut, jobs):
            done += 1
            virtual_s += report.virtual_s
            writes += report.writes
            conflicts += sum(report.conflicts.values())
            for why, count in report.unsolved.items():
                unsolved[why] = unsolved.get(why, 0) + count
            if report.failure is not None:
                failed.append(report)
                _tell(console, report, subject, cut)
            status.update(f"{done} of {len(seeds)} seeds, {len(failed)} failed")
    spent_s = time.monotonic() - began
    console.print(
        f"{len(seeds)} seeds, {len(failed)} failed; {len(seeds) / spent_s:.1f} seeds a second, "
        f"{virtual_s / spent_s:.0f} simulated hours an hour; {writes} writes, {conflicts} conflicts recorded"
    )
    _tell_unsolved(console, unsolved)
    return failed


def _one_of_each(failed: list[Report]) -> list[Report]:
    """The first report for each invariant: to shrink the others would show the same again."""
    return list(
        {str(report.failure and report.failure.invariant): report for report in reversed(failed)}.values()
    )


def _tell_unsolved(console: Console, unsolved: Mapping[str, int]) -> None:
    for why, count in sorted(unsolved.items()):
        console.print(f"  left to the application {count} times: {escape(why)}")


def _reports(seeds: range, subject: Subject, cut: Cut, jobs: int) -> Iterator[Report]:
    work = partial(run_seed, subject=subject, cut=cut)
    if jobs == 1 or len(seeds) == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, seeds, chunksize=4)


def _show(console: Console, report: Report) -> None:
    console.print(escape(report.plan.describe()))
    console.print(
        f"{report.virtual_s:.1f} virtual seconds, {report.steps} steps, {report.writes} writes "
        f"({report.entries} entries), {report.reads} reads checked"
    )
    for name, count in sorted(report.errors.items()):
        console.print(f"  clients met {name} {count} times")
    for name, count in sorted(report.conflicts.items()):
        console.print(f"  conflicts: {name} {count}")
    _tell_unsolved(console, report.unsolved)
    console.print(f"trace digest {report.digest}")


def _tell(console: Console, report: Report, subject: Subject, cut: Cut) -> None:
    failure = report.failure
    assert failure is not None
    console.print(f"seed {report.plan.seed}: [bold red]{_kind(failure)}[/] {escape(_short(failure))}")
    console.print(f"  replay: {escape(_command(report.plan.seed, subject, cut))}")


def _shrink(console: Console, report: Report, subject: Subject, cut: Cut) -> None:
    application = subject.application()
    plan = subject.plan(report.plan.seed, application)
    runs = 0
    with console.status("shrinking") as status:

        def tried(smaller: Cut, fails: bool) -> None:
            nonlocal runs
            runs += 1
            status.update(f"shrinking seed {plan.seed}: {runs} runs tried")

        smaller, found = shrink(plan, report, lambda each: run(each, application), tried, start=cut)
    console.print(
        f"shrunk after {runs} runs, {report.steps} steps to {found.steps}: {escape(found.plan.describe())}"
    )
    console.print(f"  {escape(_short(found.failure or report.failure))}" if report.failure else "")
    console.print(f"  replay: {escape(_command(report.plan.seed, subject, smaller))}")


def _short(failure: SimulationFailure) -> str:
    said = str(failure)
    return said if len(said) <= _LONGEST else said[:_LONGEST] + " …"


def _kind(failure: SimulationFailure) -> str:
    return {3: "safety", 4: "liveness", 5: "crash"}[failure.exit_code]


def _command(seed: int, subject: Subject, cut: Cut) -> str:
    return " ".join([f"atoll simulate --seed {seed}", *subject.arguments(), cut.arguments()]).rstrip()


def _cut(
    faults: str | None, workloads: str | None, duration: float | None, clients: int | None, detour: bool
) -> Cut:
    numbers = None
    if faults is not None:
        try:
            numbers = () if faults == "none" else tuple(int(number) for number in faults.split(","))
        except ValueError:
            raise ValueError(f"--faults takes numbers such as 0,2, or none; not {faults!r}") from None
    names = None
    if workloads is not None:
        names = tuple(workloads.split(","))
        unknown = sorted(set(names) - {*WORKLOADS, "freshness"})
        if unknown:
            raise ValueError(f"no workload is called {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    return Cut(numbers, names, duration, clients, detour)
