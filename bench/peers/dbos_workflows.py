"""DBOS on PostgreSQL: each step of a workflow is recorded in the database before the next one begins.

It is installed once, into an environment of its own in `bench/.cache`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.callers import Calls, taken
from bench.peers import NotMeasured
from bench.rounds import Say

VERSION = "3.4.0"
LABEL = f"DBOS {VERSION} on PostgreSQL"
_PROGRAM = Path(__file__).with_name("dbos_program.py")
_CACHE = Path(__file__).parents[1] / ".cache" / f"dbos-{VERSION}"
_PYTHON = _CACHE / "bin" / "python"
_READY = _CACHE / "installed"
_INSTALL_S = 300.0
_RUN_S = 300.0


def workflows(url: str, callers: int, count: int) -> Calls:
    """So many, each caller one after the other. Raises NotMeasured."""
    done = _run([str(_PYTHON), str(_PROGRAM), url, str(callers), str(count)], _RUN_S)
    if done.returncode != 0:
        raise NotMeasured(f"DBOS ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return taken(found["took_ns"], 0.0, found["elapsed_s"])


def require(say: Say, *, install: bool) -> None:
    """Raises NotMeasured where it is not here, and may or can not be installed."""
    if _READY.exists():
        return
    if not install:
        raise NotMeasured("DBOS is not installed yet; a run without --quick does that")
    say(f"pip installs DBOS {VERSION}, once")
    for command in (
        [sys.executable, "-m", "venv", str(_CACHE)],
        [str(_PYTHON), "-m", "pip", "install", "--quiet", f"dbos=={VERSION}", "asyncpg"],
    ):
        done = _run(command, _INSTALL_S)
        if done.returncode != 0:
            raise NotMeasured(f"pip cannot install DBOS: {done.stderr.strip()[-300:]}")
    _READY.touch()


def _run(command: list[str], within_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"`{' '.join(command[:4])}` did not end in {within_s:.0f} s") from None
