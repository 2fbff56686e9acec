"""`python -m bench [--quick] [--only NAME] [--json FILE]`: measure, show one table, write it as JSON."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import apsw
from rich.console import Console

from atoll import __version__
from bench import (
    apply,
    clients,
    commit,
    conflicts,
    growth,
    latencies,
    memory,
    nodes,
    over_http,
    propagation,
    reads,
    recovery,
    replication,
)
from bench.figures import Curve, Figure, Measured, report_json, table_of
from bench.rounds import FULL, QUICK, Say, Scale

LATEST = Path(__file__).with_name("results") / "latest.json"

MEASURES: dict[str, Callable[[Scale, Path, Say], Measured]] = {
    "commit": commit.measure,
    "apply": apply.measure,
    "http": over_http.measure,
    "read": reads.measure,
    "propagation": propagation.measure,
    "latency": latencies.measure,
    "memory": memory.measure,
    "clients": clients.measure,
    "replication": replication.measure,
    "conflicts": conflicts.measure,
    "recovery": recovery.measure,
    "growth": growth.measure,
    "nodes": nodes.measure,
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    scale = QUICK if options.quick else FULL
    if options.large:
        scale = replace(scale, growth_documents=(*FULL.growth_documents, 10_000_000))
    progress = Console(stderr=True)
    measured: list[Figure | Curve] = []
    started = time.monotonic()
    with progress.status("") as status:

        def say(what: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {what}")
            if not progress.is_terminal:
                progress.print(f"{time.monotonic() - started:4.0f} s  {what}")

        for name in options.only or MEASURES:
            say(name)
            with tempfile.TemporaryDirectory(prefix="atoll-bench-", dir=options.folder) as folder:
                measured += MEASURES[name](scale, Path(folder), say)
    Console(width=None if sys.stdout.isatty() else 150).print(
        table_of([each for each in measured if isinstance(each, Figure)])
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(report_json(measured, _machine(options.quick, started)) + "\n", "utf-8")
    progress.print(f"written to {options.json}, after {time.monotonic() - started:.0f} s")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work: for a first look, not to quote"
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(MEASURES), help="this measure; may be repeated"
    )
    parser.add_argument(
        "--large", action="store_true", help="growth up to ten million documents, which takes half an hour"
    )
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where databases are made: the disk that is measured")
    return parser.parse_args(arguments)


def _machine(quick: bool, started: float) -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(time.monotonic() - started, 1),
        "quick": quick,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "atoll": __version__,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
