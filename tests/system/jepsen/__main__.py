"""Record histories of strong documents under faults, and check each. Exit code 1 when one is wrong."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from . import report
from .faults import FAULTS
from .recording import Options, Recorded, record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.jepsen", description=__doc__)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--operations", type=int, default=2000, help="in each history")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", type=float, default=1.0, help="mean seconds between two faults")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=[], help="these faults alone")
    parser.add_argument("--folder", type=Path, help="for all histories, logs and data; kept")
    parser.add_argument(
        "--local-reads", action="store_true", help="read each region's own copy, which the check must find"
    )
    parser.add_argument("--amid-faults", action="store_true", help="begin each history with its first fault")
    kinds = {"documents": False, "transactions": True}
    parser.add_argument(
        "--of", choices=sorted(kinds), help="histories of these alone; else every tenth is of transactions"
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="deployments at a time; their clients mostly wait"
    )
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="atoll-jepsen-"))
    folder.mkdir(parents=True, exist_ok=True)
    options = Options(
        given.histories,
        given.operations,
        given.seed,
        folder,
        given.quiet,
        tuple(given.only),
        given.local_reads,
        given.amid_faults,
        transactions=kinds.get(given.of),
    )
    _say(f"seed {given.seed}, {given.histories} histories of {given.operations} operations in {folder}")
    ok = asyncio.run(_run(options, min(given.jobs, given.histories), keep=given.folder is not None))
    if ok and given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ok else 1


async def _run(options: Options, jobs: int, *, keep: bool) -> bool:
    began = time.monotonic()
    done: list[Recorded] = []
    numbers = iter(
        range(1, options.histories + 1)
    )  # some histories take five times as long: whoever is free goes on

    async def run(job: int) -> None:
        folder = options.folder if jobs == 1 else options.folder / f"deployment-{job}"
        folder.mkdir(exist_ok=True)
        async for found in record(replace(options, folder=folder), numbers):
            done.append(found)
            each_s = (time.monotonic() - began) / len(done)
            _say(report.line(found, options.histories, each_s * (options.histories - len(done))))
            if not found.ok:
                _say("\n".join(report.wrong(found)))
            elif not keep:
                found.file.unlink()

    async with asyncio.TaskGroup() as group:
        for job in range(1, jobs + 1):
            group.create_task(run(job))
    _say("\n".join(report.summary(done, time.monotonic() - began)))
    return all(found.ok for found in done)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
