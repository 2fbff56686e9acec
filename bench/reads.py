"""Reads by key inside the process, against `sqlite3` from the standard library."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter_ns

from bench.documents import document_key
from bench.figures import Figure, Goal
from bench.raw import raw_read_p50_us
from bench.regions import COLLECTION, preload, region_in, run
from bench.rounds import Say, Scale, interleaved, middle


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    loaded = folder / "read"
    run(_prepare(loaded, scale.preloaded, say))
    ours, theirs = interleaved(
        scale.rounds,
        say,
        "read",
        lambda: run(_p50_us(loaded, scale)),
        lambda: raw_read_p50_us(folder, scale.reads, scale.preloaded),
    )
    return [
        Figure(
            name="read",
            measure="read by key in process, p50",
            unit="µs",
            value=middle(ours, float),
            peer="sqlite3",
            peer_value=middle(theirs, float),
            goal=Goal("ratio", at_most=4),
            details={"atoll_rounds": ours, "peer_rounds": theirs},
        )
    ]


async def _prepare(folder: Path, preloaded: int, say: Say) -> None:
    async with region_in(folder) as region:
        await preload(region, preloaded, say)


async def _p50_us(folder: Path, scale: Scale) -> float:
    random = Random("read")
    keys = [document_key(random.randrange(scale.preloaded)) for _ in range(scale.reads)]
    took_ns = []
    async with region_in(folder) as region:
        for key in keys:
            before = perf_counter_ns()
            reading = await region.read(COLLECTION, key)
            took_ns.append(perf_counter_ns() - before)
            assert reading.value is not None
    return median(took_ns) / 1000
