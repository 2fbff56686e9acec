"""`atoll simulate`: many deployments in one process, on virtual time, from seeds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from atoll.schema.application import Application
from atoll.simulation.failures import SimulationFailure
from atoll.simulation.plan import WORKLOADS, Plan, draw
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut, shrink

_WORST_FIRST = (5, 3, 4)
"""Exit codes: a crash, a safety failure, a liveness failure."""


def simulate(  # noqa: PLR0917 — typer passes them by name
    seed: Annotated[int | None, typer.Option(help="Run this one seed, and say what it drew.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run so many seeds.")] = 100,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
    shrinking: Annotated[
        bool, typer.Option("--shrink", help="Cut a failing run down to a short one.")
    ] = False,
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
    if app is not None:
        _application(app)  # says at once what is wrong with it
    if seed is not None:
        report = run_seed(seed, app, cut)
        _show(console, report)
        failed = [report] if report.failure is not None else []
    else:
        failed = _many(console, range(first, first + seeds), app, cut, jobs)
    for report in failed:
        _tell(console, report, app, cut)
        if shrinking:
            _shrink(console, report, app, cut)
    codes = {report.failure.exit_code for report in failed if report.failure is not None}
    for code in _WORST_FIRST:
        if code in codes:
            raise typer.Exit(code)


def run_seed(seed: int, app: Path | None, cut: Cut) -> Report:
    """One seed from its number alone, so that another process can run it too."""
    application = None if app is None else _application(app)
    return run(cut.apply(_plan(seed, application)), application)


def _plan(seed: int, application: Application | None) -> Plan:
    if application is None:
        return draw(seed)
    return replace(draw(seed, application.regions()), workloads=("traffic",))


def _application(path: Path) -> Application:
    from atoll.schema.loading import load_application

    return load_application(path)


def _many(console: Console, seeds: range, app: Path | None, cut: Cut, jobs: int) -> list[Report]:
    began = time.monotonic()
    failed: list[Report] = []
    virtual_s, conflicts, writes, done = 0.0, 0, 0, 0
    with console.status("") as status:
        for report in _reports(seeds, app, cut, jobs):
            done += 1
            virtual_s += report.virtual_s
            writes += report.writes
            conflicts += sum(report.conflicts.values())
            if report.failure is not None:
                failed.append(report)
                console.print(f"seed {report.plan.seed}: {escape(str(report.failure))[:400]}")
            status.update(f"{done} of {len(seeds)} seeds, {len(failed)} failed")
    spent_s = time.monotonic() - began
    console.print(
        f"{len(seeds)} seeds, {len(failed)} failed; {len(seeds) / spent_s:.1f} seeds a second, "
        f"{virtual_s / spent_s:.0f} simulated hours an hour; {writes} writes, {conflicts} conflicts recorded"
    )
    return failed


def _reports(seeds: range, app: Path | None, cut: Cut, jobs: int) -> Iterator[Report]:
    work = partial(run_seed, app=app, cut=cut)
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
    console.print(f"trace digest {report.digest}")


def _tell(console: Console, report: Report, app: Path | None, cut: Cut) -> None:
    failure = report.failure
    assert failure is not None
    console.print(f"[bold red]{_kind(failure)}[/] {escape(str(failure))}")
    console.print(f"  replay: {escape(_command(report.plan.seed, app, cut))}")


def _shrink(console: Console, report: Report, app: Path | None, cut: Cut) -> None:
    application = None if app is None else _application(app)
    plan = _plan(report.plan.seed, application)
    with console.status("shrinking"):
        smaller, found = shrink(plan, report, lambda each: run(each, application), start=cut)
    console.print(escape(found.plan.describe()))
    console.print(f"  {escape(str(found.failure))}")
    console.print(f"  replay: {escape(_command(report.plan.seed, app, smaller))}")


def _kind(failure: SimulationFailure) -> str:
    return {3: "safety", 4: "liveness", 5: "crash"}[failure.exit_code]


def _command(seed: int, app: Path | None, cut: Cut) -> str:
    parts = [f"atoll simulate --seed {seed}"]
    if app is not None:
        parts.append(f"--app {app}")
    return " ".join([*parts, cut.arguments()]).rstrip()


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
