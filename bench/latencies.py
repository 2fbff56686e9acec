"""What one caller waits: a durable write inside the process and over HTTP, a read through the client."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import atoll.client
from atoll.documents.mutation import Write
from bench.documents import document_key
from bench.figures import Figure
from bench.load import get_document, load, put_document
from bench.raw import raw_commit_rate
from bench.record import Record
from bench.regions import PREFIX, preload, put_number, region_in, rules_of, run
from bench.rounds import Say, Scale, interleaved, middle
from bench.served import serving

_PRELOADED = 10_000
_CALLS = 3_000
_KEYS = 1_000

Took = tuple[float, float]
"""p50 and p99 in milliseconds."""


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    calls = min(_CALLS, scale.requests // 4)
    in_process = interleaved(
        scale.rounds,
        say,
        "one writer",
        lambda: run(_writes(folder / "latency", calls)),
        lambda: _raw(folder, scale.seconds / 2),
    )
    put = partial(put_document, prefix=PREFIX)
    get = partial(get_document, prefix=PREFIX, keys=_KEYS)
    with serving(folder, ["here"]) as (served,):
        load(served.url, partial(put, keys=_KEYS), requests=_KEYS, connections=8, warmup=0)
        say("one connection: PUT")
        over_http = load(served.url, put, requests=calls, connections=1, warmup=100)
        clients, bare_gets = interleaved(
            scale.rounds,
            say,
            "client GET",
            lambda: run(_gets(served.url, calls)),
            lambda: load(served.url, get, requests=calls, connections=1, warmup=100),
        )
    return [
        _figure("durable write in process", *in_process, "SQLite, one row a commit"),
        Figure(
            name="latency",
            measure="durable PUT over HTTP, p50",
            unit="ms",
            value=over_http.p50_ms,
            details={"p99_ms": over_http.p99_ms},
        ),
        _figure(
            "GET by the asynchronous client",
            clients,
            [(result.p50_ms, result.p99_ms) for result in bare_gets],
            "bare connection",
        ),
    ]


def _figure(name: str, ours: list[Took], theirs: list[Took], peer: str) -> Figure:
    return Figure(
        name="latency",
        measure=f"{name}, p50",
        unit="ms",
        value=middle(ours, lambda took: took[0]),
        peer=peer,
        peer_value=middle(theirs, lambda took: took[0]),
        details={
            "p99_ms": middle(ours, lambda took: took[1]),
            "peer_p99_ms": middle(theirs, lambda took: took[1]),
        },
    )


def _raw(folder: Path, seconds: float) -> Took:
    rate = raw_commit_rate(folder, 1, seconds, preloaded=_PRELOADED)
    return rate.p50_ms, rate.p99_ms


async def _writes(folder: Path, calls: int) -> Took:
    async with region_in(folder) as region:
        rules = rules_of(region)
        if not region.vector:
            await preload(region, _PRELOADED, lambda _: None)
        took_ns = []
        for number in range(_PRELOADED, _PRELOADED + calls):
            before = time.perf_counter_ns()
            await region.write(Write((put_number(rules, number),)))
            took_ns.append(time.perf_counter_ns() - before)
    return _milliseconds(took_ns)


async def _gets(url: str, calls: int) -> Took:
    took_ns = []
    async with atoll.client.connect({"here": url}) as database:
        for number in range(calls):
            before = time.perf_counter_ns()
            found = await database.get(Record, document_key(number % _KEYS))
            took_ns.append(time.perf_counter_ns() - before)
            assert found is not None
    return _milliseconds(took_ns)


def _milliseconds(took_ns: list[int]) -> Took:
    return median(took_ns) / 1e6, quantiles(took_ns, n=100)[98] / 1e6
