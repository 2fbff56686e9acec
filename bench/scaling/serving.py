"""What one region's sequence takes on a real disk: by writers, and by how many regions it has to serve."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import NamedTuple

from atoll.documents.mutation import Write
from atoll.region.region import Region
from atoll.replication.messages import StreamRequest
from bench.regions import acquaint, put_number, region_in, rules_of, run
from bench.rounds import Say

WRITERS = 64
BATCHING = ((1, 1), (8, 1), (64, 1), (256, 1), (1, 100), (8, 100))
"""Concurrent writers, and documents that each writes in one entry."""


class Rate(NamedTuple):
    entries_per_s: float
    cpu_us: float
    """Processor time of an entry, in microseconds: it hardly depends on the disk, or on who else is busy."""


class Load(NamedTuple):
    regions: tuple[str, ...]
    served: bool
    """Whether each of the others takes what is written, as it comes."""
    writers: int = WRITERS
    documents: int = 1


def measure(loads: Sequence[Load], *, rounds: int, seconds: float, say: Say) -> list[Rate]:
    """Of each load the median over rounds in which all have their turn."""
    found: list[list[Rate]] = [[] for _ in loads]
    for number in range(rounds):
        for at, load in enumerate(loads):
            say(
                f"commits, {load.writers} writers, {len(load.regions)} regions, round {number + 1} of {rounds}"
            )
            with TemporaryDirectory(prefix="atoll-scale-") as folder:
                found[at].append(run(_rate(Path(folder), load, seconds)))
    return [Rate(*map(median, zip(*rates, strict=True))) for rates in found]


async def _rate(folder: Path, load: Load, seconds: float) -> Rate:
    own, *peers = load.regions
    async with AsyncExitStack() as stack:
        region = await stack.enter_async_context(region_in(folder, own, regions=load.regions))
        await acquaint(region, peers)
        readers = [asyncio.create_task(_read(region, peer)) for peer in (peers if load.served else ())]
        try:
            return await _write(region, load, seconds)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


async def _read(region: Region, peer: str) -> None:
    """A peer that takes everything at once; what it does with it is on another machine."""
    async for _ in region.stream(StreamRequest(peer, region.vector, (region.name,))):
        pass


async def _write(region: Region, load: Load, seconds: float) -> Rate:
    rules = rules_of(region)
    numbers = count()
    started, used = perf_counter(), process_time()
    written = 0

    async def writer() -> None:
        nonlocal written
        while perf_counter() - started < seconds:
            await region.write(Write(tuple(put_number(rules, next(numbers)) for _ in range(load.documents))))
            written += 1

    await asyncio.gather(*(writer() for _ in range(load.writers)))
    took = perf_counter() - started
    return Rate(written / took, (process_time() - used) / written * 1e6)
