"""Workflows of three steps, as other systems run them: a program in the peer's own environment starts them."""

from __future__ import annotations

import json
from pathlib import Path

from bench.callers import Calls, taken
from bench.peers import NotMeasured
from bench.peers.environments import Environment, run

_RUN_S = 300.0


def workflows(environment: Environment, program: Path, address: str, callers: int, count: int) -> Calls:
    """So many, each caller one after the other. Raises NotMeasured.

    The program prints JSON: the nanoseconds of each from its start to its result, and the seconds of all of them.
    """
    done = run([str(environment.python), str(program), address, str(callers), str(count)], _RUN_S)
    if done.returncode != 0:
        raise NotMeasured(
            f"{environment.label} ended with status {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return taken(found["took_ns"], 0.0, found["elapsed_s"])
