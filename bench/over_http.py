"""Requests a second over HTTP: `atoll serve`, durable, against the barest ASGI application over a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import bare_asgi
from bench.figures import Figure, Goal
from bench.load import LoadResult, Request, get_document, load, put_document
from bench.regions import PREFIX
from bench.rounds import Say, Scale, interleaved, middle
from bench.served import Served, serving

CONNECTIONS = 64
_KEYS = 1_000


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    with serving(folder, ["here"]) as (served,), bare_asgi.serving() as bare:
        puts = interleaved(
            scale.rounds,
            say,
            "HTTP PUT",
            partial(_load, served.url, partial(put_document, prefix=PREFIX), scale),
            partial(_load, bare, put_document, scale),
        )
        _write_keys(served)
        gets = interleaved(
            scale.rounds,
            say,
            "HTTP GET",
            partial(_load, served.url, partial(get_document, prefix=PREFIX, keys=_KEYS), scale),
            partial(_load, bare, partial(get_document, keys=_KEYS), scale),
        )
    return [
        _figure("durable PUT", *puts, Goal("value", at_least=5_000)),
        _figure("GET", *gets, Goal("value", at_least=9_000)),
    ]


def _load(url: str, request: Callable[[int], Request], scale: Scale) -> LoadResult:
    return load(url, request, requests=scale.requests, connections=CONNECTIONS)


def _write_keys(served: Served) -> None:
    put = partial(put_document, prefix=PREFIX, keys=_KEYS)
    load(served.url, put, requests=_KEYS, connections=8, warmup=0)


def _figure(name: str, ours: list[LoadResult], theirs: list[LoadResult], goal: Goal) -> Figure:
    return Figure(
        name="http",
        measure=f"{name} of 1 kB, {CONNECTIONS} connections",
        unit="/s",
        value=middle(ours, _rate),
        peer="bare ASGI under uvicorn",
        peer_value=middle(theirs, _rate),
        goal=goal,
        details={
            "atoll_rounds": [_rate(result) for result in ours],
            "peer_rounds": [_rate(result) for result in theirs],
            "p50_ms": middle(ours, lambda result: result.p50_ms),
            "p99_ms": middle(ours, lambda result: result.p99_ms),
            "generator_cpu": middle(theirs, lambda result: result.generator_cpu),
        },
    )


def _rate(result: LoadResult) -> float:
    """Requests a second; 0 for a run in which anything but success came back."""
    return result.requests_per_second if set(result.statuses) == {200} else 0.0
