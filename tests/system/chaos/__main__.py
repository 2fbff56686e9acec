"""Faults on real processes, sockets and disks, and the proof that nothing was lost. Exit code 1 when something was."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from .disk import private_mounts
from .nemesis import FAULTS
from .report import lines
from .run import Options, chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", type=float, default=2.0, help="mean seconds between two faults")
    parser.add_argument("--pace", type=float, default=1.0, help="more is slower clients")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), default=[], help="these faults alone")
    parser.add_argument("--folder", type=Path, help="for logs and data; kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    mounts = private_mounts()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="atoll-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    disks = "tmpfs of their own" if mounts else "limits on file sizes (mounts are not permitted)"
    _say(f"seed {given.seed}, {given.minutes} minutes in {folder}; full disks by {disks}")
    options = Options(
        given.minutes * 60, given.seed, folder, mounts, given.quiet, given.pace, tuple(given.only)
    )
    outcome = asyncio.run(chaos(options))
    _say("\n".join(lines(outcome)))
    if given.json is not None:
        given.json.write_text(json.dumps(outcome.as_json(), indent=1))
    if outcome.ok and given.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif not outcome.ok:
        _say(f"logs and data are in {folder}; again with --seed {given.seed}")
    return 0 if outcome.ok else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
