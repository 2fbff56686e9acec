"""DBOS on PostgreSQL: each step of a workflow is recorded in the database before the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.callers import Calls
from bench.peers import postgresql
from bench.peers.environments import CACHE, Environment
from bench.peers.workflows import workflows
from bench.rounds import Say

VERSION = "3.4.0"
LABEL = f"DBOS {VERSION} on PostgreSQL"
DURABILITY = postgresql.DURABILITY
ENVIRONMENT = Environment(f"DBOS {VERSION}", CACHE / f"dbos-{VERSION}", (f"dbos=={VERSION}", "asyncpg"))
_PROGRAM = Path(__file__).with_name("dbos_program.py")


@contextmanager
def serving(folder: Path, say: Say, *, install: bool) -> Iterator[Callable[[int, int], Calls]]:
    """So many callers, so many workflows. Raises NotMeasured."""
    ENVIRONMENT.require(say, install=install)
    with postgresql.serving(folder / "postgresql") as server:
        yield partial(workflows, ENVIRONMENT, _PROGRAM, server.url())
