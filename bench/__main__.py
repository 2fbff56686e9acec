"""`python -m bench [--quick] [--only NAME] [--json FILE]`: measure, show one table, write it as JSON."""

from __future__ import annotations

import argparse
import json
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
    bulk,
    clients,
    commit,
    conflicts,
    escrow,
    growth,
    latencies,
    memory,
    nodes,
    over_http,
    propagation,
    reads,
    recovery,
    replication,
    sagas,
    strong,
)
from bench.figures import Curve, Figure, Measured, Report, measured_again, report_json, report_of, table_of
from bench.machine import machine
from bench.rounds import FULL, QUICK, Say, Scale

_FAILED = "all of it"
LATEST = Path(__file__).with_name("results") / "latest.json"

MEASURES: dict[str, Callable[[Scale, Path, Say], Measured]] = {
    "commit": commit.measure,
    "apply": apply.measure,
    "http": over_http.measure,
    "read": reads.measure,
    "propagation": propagation.measure,
    "latency": latencies.measure,
    "memory": memory.measure,
    "bulk": bulk.measure,
    "clients": clients.measure,
    "replication": replication.measure,
    "conflicts": conflicts.measure,
    "recovery": recovery.measure,
    "growth": growth.measure,
    "nodes": nodes.measure,
    "strong": strong.measure,
    "strong, near": strong.measure_near,
    "sagas": sagas.measure,
    "escrow": escrow.measure,
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    started = time.monotonic()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    earlier: Report | None = json.loads(options.json.read_text("utf-8")) if options.again else None

    def keep(measured: Measured) -> None:
        report = report_of(measured, {**machine(started), "quick": options.quick})
        if earlier is not None:
            report = measured_again(earlier, report)
        options.json.write_text(report_json(report) + "\n", "utf-8")

    measured = _measure_all(options.only or tuple(MEASURES), _scale(options), options.folder, keep)
    figures = [each for each in measured if isinstance(each, Figure)]
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(figures))
    Console(stderr=True).print(f"written to {options.json}, after {time.monotonic() - started:.0f} s")
    return 1 if any(figure.measure == _FAILED for figure in figures) else 0


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    if options.large:
        scale = replace(scale, growth_documents=(*FULL.growth_documents, 10_000_000))
    if options.store:
        scale = replace(scale, stores=tuple(options.store))
    return scale


def _measure_all(
    names: Sequence[str], scale: Scale, disk: Path | None, keep: Callable[[Measured], None]
) -> list[Figure | Curve]:
    """One that fails becomes a figure that says so; the others have theirs all the same.

    `keep` gets what there is after each measure: a long run that is ended early was not for nothing.
    """
    progress = Console(stderr=True)
    measured: list[Figure | Curve] = []
    started = time.monotonic()
    with progress.status("") as status:

        def say(what: str) -> None:
            status.update(f"{time.monotonic() - started:4.0f} s  {what}")
            if not progress.is_terminal:
                progress.print(f"{time.monotonic() - started:4.0f} s  {what}")

        for name in names:
            say(name)
            try:
                measured += _measured(name, scale, disk, say)
            except Exception as error:
                progress.print_exception()
                reason = f"{type(error).__name__}: {error}"
                measured.append(Figure(name, _FAILED, "", None, not_measured=reason))
            keep(measured)
    return measured


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
    parser.add_argument(
        "--again",
        action="store_true",
        help="what is measured takes its place in the JSON of an earlier run, which says when that was",
    )
    parser.add_argument("--folder", type=Path, help="where databases are made: the disk that is measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
