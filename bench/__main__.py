"""`python -m bench [--quick] [--only NAME] [--json FILE]`: measure, show one table, write it as JSON."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import (
    apply,
    clients,
    commit,
    conflicts,
    growth,
    latencies,
    memory,
    moving,
    over_http,
    propagation,
    reads,
    recovery,
    replication,
)
from bench.figures import Curve, Figure, Measured, report_json, table_of
from bench.machine import machine
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
    "moving": moving.measure,
    "clients": clients.measure,
    "replication": replication.measure,
    "conflicts": conflicts.measure,
    "recovery": recovery.measure,
    "growth": growth.measure,
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    scale = QUICK if options.quick else FULL
    if options.large:
        scale = replace(scale, growth_documents=(*FULL.growth_documents, 10_000_000))
    if options.store:
        scale = replace(scale, stores=tuple(options.store))
    progress = Console(stderr=True)
    measured: list[Figure | Curve] = []
    failed = False
    started = time.monotonic()
    with progress.status("") as status:

        def say(what: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {what}")
            if not progress.is_terminal:
                progress.print(f"{time.monotonic() - started:4.0f} s  {what}")

        for name in options.only or MEASURES:
            say(name)
            try:
                measured += _measured(name, scale, options.folder, say)
            except Exception as error:  # the others have their figures all the same
                failed = True
                progress.print_exception()
                measured.append(Figure(name, name, "", None, not_measured=f"{type(error).__name__}: {error}"))
    Console(width=None if sys.stdout.isatty() else 150).print(
        table_of([each for each in measured if isinstance(each, Figure)])
    )
    about = machine(started)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(report_json(measured, {**about, "quick": options.quick}) + "\n", "utf-8")
    progress.print(f"written to {options.json}, after {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def _measured(name: str, scale: Scale, disk: Path | None, say: Say) -> Measured:
    with tempfile.TemporaryDirectory(prefix="atoll-bench-", dir=disk) as folder:
        Path(folder).chmod(0o711)  # peers that root may not run have their data there too
        return MEASURES[name](scale, Path(folder), say)


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
    parser.add_argument(
        "--store",
        action="append",
        choices=("sqlite", "postgresql"),
        help="of replicated regions; may be repeated; default: sqlite",
    )
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where databases are made: the disk that is measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
