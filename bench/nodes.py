"""One region on one PostgreSQL, with one, two and four nodes: durable writes and reads a second over HTTP.

Nodes, database and load generators share this machine, so the curve flattens where its cores end: `cores` in the
report says how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from atoll.testing.postgres_server import PostgresServer
from bench.figures import Figure
from bench.load import LoadResult, Request, get_document, load, put_document
from bench.regions import PREFIX
from bench.rounds import Say, Scale
from bench.served import Served, serving_nodes

NODES = (1, 2, 4)
CONNECTIONS = 64
_KEYS = 1_000


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures: list[Figure] = []
    alone: dict[str, float] = {}
    for count in NODES:
        place = folder / f"nodes-{count}"
        place.mkdir()
        with (
            PostgresServer(folder / f"postgresql-{count}") as server,
            serving_nodes(place, count, server.create_database("atoll")) as nodes,
        ):
            for name, request in _REQUESTS.items():
                results = [
                    _round(nodes, request, scale, say, f"{name}, {count} nodes, round {at + 1}")
                    for at in range(scale.rounds)
                ]
                rates = [sum(map(_rate, result)) for result in results]
                alone.setdefault(name, median(rates))
                figures.append(_figure(name, count, rates, alone[name], results))
    return figures


_REQUESTS: dict[str, Callable[[int], Request]] = {
    "durable PUT": partial(put_document, prefix=PREFIX, keys=_KEYS),
    "GET": partial(get_document, prefix=PREFIX, keys=_KEYS),
}


def _round(
    nodes: Sequence[Served], request: Callable[[int], Request], scale: Scale, say: Say, what: str
) -> list[LoadResult]:
    """All nodes at once, each with its share of connections and requests."""
    say(what)
    share = len(nodes)
    with ThreadPoolExecutor(share) as threads:
        running = [
            threads.submit(
                load, node.url, request, requests=scale.requests // share, connections=CONNECTIONS // share
            )
            for node in nodes
        ]
        return [each.result() for each in running]


def _rate(result: LoadResult) -> float:
    """Requests a second; 0 for a run in which anything but success came back."""
    return result.requests_per_second if result.all_ok else 0.0


def _figure(
    name: str, count: int, rates: list[float], alone: float, results: list[list[LoadResult]]
) -> Figure:
    return Figure(
        name="nodes",
        measure=f"{name} of 1 kB at {count} node{'s' * (count > 1)} on PostgreSQL, {CONNECTIONS} connections",
        unit="/s",
        value=median(rates),
        peer="one node",
        peer_value=alone,
        goal=None,
        details={
            "atoll_rounds": rates,
            "p50_ms": [median(each.p50_ms for each in result) for result in results],
            "p99_ms": [max(each.p99_ms for each in result) for result in results],
        },
    )
