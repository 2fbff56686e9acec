"""How cost grows: with documents, regions, conflicts, and the size of a document. Curves, to see cliffs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, perf_counter_ns

from atoll.documents.mutation import Write, put_of
from atoll.region.region import Region
from bench.conflicts import applied, written_here, written_there
from bench.documents import document_body
from bench.figures import Curve, Figure, Goal, Measured
from bench.load import load, put_document
from bench.propagation import lag_ms
from bench.regions import COLLECTION, PREFIX, acquaint, fresh_copy, region_in, rules_of, run
from bench.rounds import Say, Scale
from bench.served import Served, linked, serving, wait_for

WRITERS = 64
SIZES_BYTES = (100, 1_000, 10_000, 100_000, 1_000_000)
CONFLICTING = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
_KEPT = 0.8
"""Of the commit rate among the fewest documents, that must be left among many."""
_HELD_TO = 1_000_000
"""So many; what lies beyond is a curve."""
_DOCUMENTS_PER_WRITE = 500
_BYTES_PER_WRITE = 4_000_000
_READ = 1_000
"""Documents of one size that are there to be read."""
Points = list[tuple[float, float]]
Body = Callable[[int], bytes]


def measure(scale: Scale, folder: Path, say: Say) -> Measured:
    return [
        *_by_documents(scale, folder / "documents", say),
        *_by_size(scale, folder, say),
        *_by_conflicts(scale, folder, say),
        *_by_regions(scale, folder, say),
    ]


def _by_documents(scale: Scale, folder: Path, say: Say) -> Measured:
    commits: Points = []
    reads: Points = []
    for documents in scale.growth_documents:
        rates, took_us = [], []
        for number in range(1, scale.rounds + 1):
            say(f"growth: {documents:,} documents, round {number} of {scale.rounds}")
            rate, read_us = run(among(folder, documents, scale, document_body))
            rates.append(rate)
            took_us.append(read_us)
        commits.append((documents, median(rates)))
        reads.append((documents, median(took_us)))
    few = commits[0]
    many = max(point for point in commits if point[0] <= _HELD_TO)
    return [
        Figure(
            name="growth",
            measure=f"commit by the region among {many[0]:,} documents",
            unit="rows/s",
            value=many[1],
            peer=f"among {few[0]:,}",
            peer_value=few[1],
            goal=Goal("ratio", at_least=_KEPT),
        ),
        _curve("documents-commit", "Commits, by documents that are there", "documents", "rows/s", commits),
        _curve("documents-read", "Read by key, by documents that are there", "documents", "µs, p50", reads),
    ]


def _by_size(scale: Scale, folder: Path, say: Say) -> Measured:
    rows: Points = []
    megabytes: Points = []
    reads: Points = []
    for size in SIZES_BYTES:
        say(f"growth: documents of {size:,} bytes")
        place = folder / f"size-{size}"
        resident = max(10, min(_READ, 20_000_000 // size))
        rate, read_us = run(among(place, resident, scale, partial(body_of, size)))
        rows.append((size, rate))
        megabytes.append((size, rate * size / 1e6))
        reads.append((size, read_us))
    return [
        _curve("size-commit", "Commits, by the size of a document", "bytes", "rows/s", rows, log_y=True),
        _curve("size-bytes", "Committed, by the size of a document", "bytes", "MB/s", megabytes, log_y=True),
        _curve("size-read", "Read by key, by the size of a document", "bytes", "µs, p50", reads, log_y=True),
    ]


def _by_conflicts(scale: Scale, folder: Path, say: Say) -> Measured:
    rates: Points = []
    chunks = run(written_there("lww", scale.conflicts))
    for share in CONFLICTING:
        say(f"growth: {share:.0%} conflicts")
        place = folder / f"conflicts-{share:.2f}"
        clashing = int(scale.conflicts * share)
        run(written_here(place, "lww", clashing))
        found = [
            run(applied(fresh_copy(place), "lww", chunks, scale.conflicts, clashing))
            for _ in range(scale.rounds)
        ]
        rates.append((share * 100, median(found)))
    title = "Applied from a peer, by the share of conflicts"
    return [_curve("conflicts-apply", title, "% in conflict", "entries/s", rates, log_x=False)]


def _by_regions(scale: Scale, folder: Path, say: Say) -> Measured:
    rates: Points = []
    lags: Points = []
    for regions in scale.growth_regions:
        say(f"growth: {regions} regions, a process each")
        place = folder / f"regions-{regions}"
        place.mkdir()
        with serving(place, [f"region{number}" for number in range(regions)]) as served:
            linked(served)
            rates.append((regions, _to_all(served, scale.rows // 2)))
            lags.append((regions, median(lag_ms(served[0], served[-1], scale.samples, scale.rows))))
    return [
        _curve(
            "regions-rate", "Written in one region until all have it", "regions", "rows/s", rates, log_x=False
        ),
        _curve("regions-lag", "Lag of one write at idle", "regions", "ms, p50", lags, log_x=False),
    ]


def _curve(
    slug: str, title: str, x: str, y: str, points: Points, *, log_x: bool = True, log_y: bool = False
) -> Curve:
    return Curve("growth", slug, title, x, y, {"Atoll": points}, log_x, log_y)


def _to_all(regions: list[Served], rows: int) -> float:
    """Rows a second from the first write until the last region shows the last one."""
    put = partial(put_document, prefix=PREFIX)
    result = load(regions[0].url, put, requests=rows, connections=WRITERS, warmup=0)
    assert result.all_ok, dict(result.statuses)
    for region in regions[1:]:
        wait_for(partial(_holds, region, rows), f"{region.name} has not got all", 300)
    return rows / (perf_counter() - result.started)


def _holds(region: Served, rows: int) -> bool:
    return bool(sum(region.ask("GET", "/admin/statistics")["documents"].values()) >= rows)


async def among(folder: Path, documents: int, scale: Scale, body: Body) -> tuple[float, float]:
    """Rows committed a second, and µs of a read, among so many documents: each write replaces one of them."""
    random = Random("write")
    async with region_in(folder) as region:
        if not region.vector:
            await acquaint(region, ["there", "yonder"])
        await load_documents(region, documents, body)
        read_us = await _read_us(region, documents, scale.reads // 10)
        numbers = count()
        started = perf_counter()

        async def writer() -> None:
            while perf_counter() - started < scale.seconds / 2:
                put = put_of(rules_of(region), key_of(random.randrange(documents)), body(next(numbers)))
                await region.write(Write((put,)))

        await asyncio.gather(*(writer() for _ in range(WRITERS)))
        return next(numbers) / (perf_counter() - started), read_us


async def load_documents(region: Region, documents: int, body: Body) -> None:
    """Write those that are missing, in order."""
    statistics = await region.store.statistics()
    loaded = sum(statistics.documents.values())
    rules = rules_of(region)
    while loaded < documents:
        most = max(1, min(_DOCUMENTS_PER_WRITE, _BYTES_PER_WRITE // len(body(loaded))))
        numbers = range(loaded, min(loaded + most, documents))
        await region.write(Write(tuple(put_of(rules, key_of(number), body(number)) for number in numbers)))
        loaded = numbers.stop


async def _read_us(region: Region, documents: int, reads: int) -> float:
    random = Random("read")
    took_ns = []
    for _ in range(reads):
        key = key_of(random.randrange(documents))
        before = perf_counter_ns()
        reading = await region.read(COLLECTION, key)
        took_ns.append(perf_counter_ns() - before)
        assert reading.value is not None
    return median(took_ns) / 1000


def key_of(number: int) -> str:
    """Scattered and distinct below a hundred million, where `document_key` ends at one."""
    return f"doc-{number * 61_195_319 % 100_000_000:08d}"


def body_of(size: int, number: int) -> bytes:
    """JSON text of `size` bytes, with a number of its own."""
    document = {"title": f"document {number % 10_000:04d}", "stock": 100, "text": ""}
    document["text"] = _TEXT[: size - len(json.dumps(document))]
    return json.dumps(document).encode()


_TEXT = Random("text").randbytes(SIZES_BYTES[-1] // 2).hex()
