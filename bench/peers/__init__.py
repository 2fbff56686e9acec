"""What Atoll is held against: servers that the bench starts by itself, on loopback, with their durability stated.

    postgresql         PostgreSQL, alone and as two servers that replicate both ways; asyncpg
    pouchdb            pouchdb-server, replicating both ways
    redis_server       Redis; redis-py
    etcd               three members that decide by majority, with distances between them; bare gRPC
    dbos_workflows     DBOS, whose workflows are recorded in PostgreSQL
    temporal_workflows Temporal's development server, whose workflows are recorded in SQLite
    aiohttp_exchange   a server and a client of aiohttp, with nothing in between

A peer that cannot be had raises `NotMeasured`: its figures then say so and why, and the run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

START_S = 30.0
STOP_S = 15.0


class NotMeasured(Exception):
    """Why there is no figure."""


def until_it_serves(ready: Callable[[], bool], ended: Callable[[], int | None], what: str) -> None:
    """Raises NotMeasured when a started process ends, or does not serve in time."""
    deadline = time.monotonic() + START_S
    while not ready():
        code = ended()
        if code is not None:
            raise NotMeasured(f"{what} ended at once, with status {code}")
        if time.monotonic() > deadline:
            raise NotMeasured(f"{what} did not serve within {START_S:.0f} s")
        time.sleep(0.02)
