"""`atoll simulate`: many deployments in one process, on virtual time, from seeds."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import SystemRandom
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from atoll.cli.terminal import JsonOption, command, print_json
from atoll.schema.application import Application
from atoll.simulation.failures import SimulationFailure
from atoll.simulation.geography import PLACES
from atoll.simulation.plan import EXTRA_WORKLOADS, WORKLOADS, Plan, draw
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut, shrink

_LONGEST = 600
_KINDS = {5: "crash", 3: "safety", 4: "liveness"}
"""By exit code, the worst first."""


@command
def simulate(  # noqa: PLR0917 — typer passes them by name
    seed: Annotated[int | None, typer.Option(help="Run this one seed, and say what it drew.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run so many seeds.")] = 100,
    first: Annotated[
        int | None, typer.Option(help="The first of them; without it seeds are drawn that hardly ran before.")
    ] = None,
    shrinking: Annotated[
        bool, typer.Option("--shrink", help="Cut a failing run down to a short one.")
    ] = False,
    regions: Annotated[
        int | None, typer.Option(min=2, max=len(PLACES), help="So many regions, instead of 2 to 7 as drawn.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="So many nodes in each region, instead of several in some as drawn."),
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
    as_json: JsonOption = False,
) -> None:
    """Look for bugs: run whole deployments with faults, on virtual time, each from its seed.

    Exit codes: 3 for a safety failure, 4 for a liveness failure, 5 for a crash.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    try:
        cut = _cut(faults, workloads, duration, clients, detour)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    subject = Subject(app, regions, nodes)
    subject.application()  # says at once what is wrong with it
    runs = _Runs(console, subject, cut)
    if seed is not None:
        reports = [run_seed(seed, subject, cut)]
        runs.show(reports[0])
    else:
        first = fresh_seed() if first is None else first
        console.print(f"--first {first} repeats these seeds")
        reports = runs.many(range(first, first + seeds), jobs)
    failed = [report for report in reports if report.failure is not None]
    shrunk = {report.plan.seed: runs.shrink(report) for report in _one_of_each(failed)} if shrinking else {}
    if as_json:
        print_json(runs.as_json(reports, shrunk))
    codes = {report.failure.exit_code for report in failed if report.failure is not None}
    for code in _KINDS:
        if code in codes:
            raise typer.Exit(code)


def fresh_seed() -> int:
    """Where to begin so that other seeds run than ever before."""
    return SystemRandom().randrange(1_000_000, 1_000_000_000)


class Subject(NamedTuple):
    """What is simulated, beside what a seed draws."""

    app: Path | None = None
    """Whose collections are written; None for the built-in ones."""
    regions: int | None = None
    """How many; None for a number that is drawn."""
    nodes: int | None = None
    """How many in each region; None for what is drawn."""

    def application(self) -> Application | None:
        """Raises what loading the file raises."""
        if self.app is None:
            return None
        from atoll.schema.loading import load_application

        return load_application(self.app)

    def plan(self, seed: int, application: Application | None) -> Plan:
        if application is None:
            return draw(seed, regions=self.regions, nodes=self.nodes)
        plan = draw(seed, application.regions(), self.regions, self.nodes)
        # Of the built-in declarations there are several versions, of a team's own there is one.
        faults = tuple(fault for fault in plan.faults if fault.kind != "upgrade")
        return replace(plan, workloads=("traffic",), faults=faults, versions={})

    def arguments(self) -> list[str]:
        """As options of `atoll simulate`."""
        return [
            *([] if self.regions is None else [f"--regions {self.regions}"]),
            *([] if self.nodes is None else [f"--nodes {self.nodes}"]),
            *([] if self.app is None else [f"--app {self.app}"]),
        ]


def run_seed(seed: int, subject: Subject, cut: Cut) -> Report:
    """One seed from its number alone, so that another process can run it too."""
    application = subject.application()
    return run(cut.apply(subject.plan(seed, application)), application)


class _Runs(NamedTuple):
    """What is run, and where it is told."""

    console: Console
    subject: Subject
    cut: Cut

    def many(self, seeds: range, jobs: int) -> list[Report]:
        began = time.monotonic()
        reports: list[Report] = []
        failed = 0
        with _progress() as status:
            for report in self._reports(seeds, jobs):
                reports.append(report)
                failed += report.failure is not None
                self._tell_failure(report)
                status.update(f"{len(reports)} of {len(seeds)} seeds, {failed} failed")
        spent_s = time.monotonic() - began
        virtual_s, writes = sum(each.virtual_s for each in reports), sum(each.writes for each in reports)
        conflicts = sum(sum(each.conflicts.values()) for each in reports)
        self.console.print(
            f"{len(seeds)} seeds, {failed} failed; {len(seeds) / spent_s:.1f} seeds a second, "
            f"{virtual_s / spent_s:.0f} simulated hours an hour; {writes} writes, {conflicts} conflicts recorded"
        )
        self._tell_unsolved(_added(report.unsolved for report in reports))
        return reports

    def _reports(self, seeds: range, jobs: int) -> Iterator[Report]:
        _quietly()
        work = partial(run_seed, subject=self.subject, cut=self.cut)
        if jobs == 1 or len(seeds) == 1:
            yield from map(work, seeds)
            return
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_quietly) as pool:
            yield from pool.map(work, seeds, chunksize=4)

    def show(self, report: Report) -> None:
        show = self.console.print
        show(escape(report.plan.describe()))
        show(
            f"{report.virtual_s:.1f} virtual seconds, {report.steps} steps, {report.writes} writes "
            f"({report.entries} entries), {report.reads} reads checked"
        )
        for name, count in sorted(report.errors.items()):
            show(f"  clients met {name} {count} times")
        for name, count in sorted(report.conflicts.items()):
            show(f"  conflicts: {name} {count}")
        self._tell_unsolved(report.unsolved)
        show(f"trace digest {report.digest}")
        self._tell_failure(report)

    def _tell_unsolved(self, unsolved: Mapping[str, int]) -> None:
        for why, count in sorted(unsolved.items()):
            self.console.print(f"  left to the application {count} times: {escape(why)}")

    def _tell_failure(self, report: Report) -> None:
        failure, seed = report.failure, report.plan.seed
        if failure is not None:
            kind = _KINDS[failure.exit_code]
            self.console.print(f"seed {seed}: [bold red]{kind}[/] {escape(_short(failure))}")
            self.console.print(f"  replay: {escape(self._command(seed, self.cut))}")

    def shrink(self, report: Report) -> Cut:
        """What is left of its plan."""
        application = self.subject.application()
        plan = self.subject.plan(report.plan.seed, application)
        runs = 0
        with _progress() as status:

            def tried(smaller: Cut, fails: bool) -> None:
                nonlocal runs
                runs += 1
                status.update(f"shrinking seed {plan.seed}: {runs} runs tried")

            smaller, found = shrink(plan, report, lambda each: run(each, application), tried, start=self.cut)
        steps = f"{report.steps} steps to {found.steps}"
        self.console.print(f"shrunk after {runs} runs, {steps}: {escape(found.plan.describe())}")
        failure = found.failure or report.failure
        if failure is not None:
            self.console.print(f"  {escape(_short(failure))}")
        self.console.print(f"  replay: {escape(self._command(plan.seed, smaller))}")
        return smaller

    def as_json(self, reports: list[Report], shrunk: Mapping[int, Cut]) -> dict[str, object]:
        """What was run and what came of it; of one seed also what it drew and its digest."""
        found: dict[str, object] = {
            "seeds": len(reports),
            "failed": [
                {
                    "seed": report.plan.seed,
                    "kind": _KINDS[report.failure.exit_code],
                    "invariant": report.failure.invariant,
                    "message": report.failure.message,
                    "replay": self._command(report.plan.seed, shrunk.get(report.plan.seed, self.cut)),
                }
                for report in reports
                if report.failure is not None
            ],
            "virtual_seconds": round(sum(report.virtual_s for report in reports), 1),
            "steps": sum(report.steps for report in reports),
            "writes": sum(report.writes for report in reports),
            "reads": sum(report.reads for report in reports),
            "conflicts": _added(report.conflicts for report in reports),
            "errors": _added(report.errors for report in reports),
            "left_to_the_application": _added(report.unsolved for report in reports),
        }
        if len(reports) == 1:
            found |= {"drew": reports[0].plan.describe(), "digest": reports[0].digest}
        return found

    def _command(self, seed: int, cut: Cut) -> str:
        return " ".join(
            [f"atoll simulate --seed {seed}", *self.subject.arguments(), cut.arguments()]
        ).rstrip()


def _progress() -> Status:
    return Console(stderr=True).status("running")


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _one_of_each(failed: list[Report]) -> list[Report]:
    """The first report for each invariant: to shrink the others would show the same again."""
    return list(
        {str(report.failure and report.failure.invariant): report for report in reversed(failed)}.values()
    )


def _quietly() -> None:
    """Regions warn of what they go through; here that is the point, and a thousand seeds would fill a screen."""
    logging.getLogger("atoll").setLevel(logging.ERROR)


def _short(failure: SimulationFailure) -> str:
    said = str(failure)
    return said if len(said) <= _LONGEST else said[:_LONGEST] + " …"


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
        unknown = sorted(set(names) - {*WORKLOADS, *EXTRA_WORKLOADS})
        if unknown:
            raise ValueError(f"no workload is called {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    return Cut(numbers, names, duration, clients, detour)
