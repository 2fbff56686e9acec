"""Resident memory of `atoll serve` with many documents, and under a load of writes that goes on."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.load import LoadResult, Request, load, put_document
from bench.regions import COLLECTION, PREFIX
from bench.rounds import Say, Scale
from bench.served import Served, serving

_DOCUMENTS_PER_BATCH = 200
_DOCUMENTS_PER_LOAD = 50_000
"""The generator holds the requests of one load in its memory."""
_CONNECTIONS = 4
_WRITES_PER_LOAD = 10_000


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    documents = scale.resident_documents
    with serving(folder, ["here"]) as (served,):
        empty_mb = served.resident_mb()
        loading_mb, loading_rates = _fill(served, documents, say)
        loaded_mb = served.resident_mb()
        after_mb = _write_on(served, documents, scale.resident_seconds, say)
    return [
        Figure(
            name="memory",
            measure=f"resident with {documents:,} documents of 1 kB",
            unit="MB",
            value=loaded_mb,
            goal=Goal("value", at_most=300),
            details={
                "empty_mb": empty_mb,
                "while_loading_mb": loading_mb,
                "documents_per_second": loading_rates,
            },
        ),
        Figure(
            name="memory",
            measure=f"and after {scale.resident_seconds:.0f} s of writes, at most",
            unit="MB",
            value=max(after_mb),
            peer="before them",
            peer_value=loaded_mb,
            goal=Goal("value", at_most=300),
            details={"samples_mb": after_mb},
        ),
    ]


def batch_of(number: int, *, first: int, size: int = _DOCUMENTS_PER_BATCH) -> Request:
    """A POST of the documents from `first + number * size` on, one transaction."""
    start = first + number * size
    puts = (
        b'{"put":{"collection":"%b","key":"%b","value":%b}}'
        % (COLLECTION.encode(), document_key(each).encode(), document_body(each))
        for each in range(start, start + size)
    )
    body = b'{"writes":[' + b",".join(puts) + b"]}"
    return Request("POST", "/v1/batch", body, {"Content-Type": "application/json"})


def _fill(served: Served, documents: int, say: Say) -> tuple[list[float], list[float]]:
    resident_mb, rates = [], []
    for first in range(0, documents, _DOCUMENTS_PER_LOAD):
        say(f"memory: {first:,} of {documents:,} documents written, {served.resident_mb():.0f} MB resident")
        count = min(_DOCUMENTS_PER_LOAD, documents - first)
        result = load(
            served.url,
            partial(batch_of, first=first),
            requests=count // _DOCUMENTS_PER_BATCH,
            connections=_CONNECTIONS,
            warmup=0,
        )
        _require_success(result)
        rates.append(result.requests_per_second * _DOCUMENTS_PER_BATCH)
        resident_mb.append(served.resident_mb())
    return resident_mb, rates


def _write_on(served: Served, documents: int, seconds: float, say: Say) -> list[float]:
    put = partial(put_document, prefix=PREFIX, keys=documents)
    samples: list[float] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _require_success(load(served.url, put, requests=_WRITES_PER_LOAD, warmup=0))
        samples.append(served.resident_mb())
        say(f"memory: writing on, {samples[-1]:.0f} MB resident")
    return samples


def _require_success(result: LoadResult) -> None:
    assert set(result.statuses) == {200}, json.dumps(dict(result.statuses))
