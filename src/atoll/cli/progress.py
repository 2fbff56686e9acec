"""How far something long has come, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from atoll.cli.terminal import tell


class Report(Protocol):
    """Told rows so far, how much of how much, and what else there is to say."""

    def __call__(self, rows: int, done: int = 0, total: int | None = None, more: str = "") -> None: ...


_FIRST_S = 2.0
_EACH_S = 10.0


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """With rate, and where a total is known, the time that is left."""
    if sys.stderr.isatty():
        with _bar(what) as report:
            yield report
        return
    started_s = time.monotonic()
    due_s = started_s + _FIRST_S

    def line(rows: int, done: int = 0, total: int | None = None, more: str = "") -> None:
        nonlocal due_s
        now_s = time.monotonic()
        if now_s < due_s:
            return
        due_s = now_s + _EACH_S
        spent_s = now_s - started_s
        share = f", {done / total:.0%}" if total else ""
        left = ""
        if done and total and done <= total:
            left = f", {spent_s * (total - done) / done:.0f} s left"
        tell(f"{what}: {rows:,} rows, {rows / spent_s:,.0f}/s{share}{left}{more}")

    yield line


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rows]:,} rows  {task.fields[rate]:,.0f}/s{task.fields[more]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    started_s = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(what, total=None, rows=0, rate=0.0, more="")

        def report(rows: int, done: int = 0, total: int | None = None, more: str = "") -> None:
            rate = rows / max(0.001, time.monotonic() - started_s)
            shown.update(task, completed=done, total=total, rows=rows, rate=rate, more=more)

        yield report
