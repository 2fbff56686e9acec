"""Durable writes of 64 concurrent writers inside one process, against SQLite with the same rows and batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from time import perf_counter

import atoll
from atoll.documents.mutation import Write
from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.raw import raw_commit_rate
from bench.record import Record
from bench.regions import APPLICATION, acquaint, fresh_copy, preload, put_number, region_in, rules_of, run
from bench.rounds import Say, Scale, interleaved, middle

WRITERS = 64
_BODIES = [json.loads(document_body(number)) for number in range(4096)]


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    opened, region = folder / "opened", folder / "region"
    run(_prepare_opened(opened, scale.preloaded, say))
    run(_prepare_region(region, scale.preloaded, say))
    ours, theirs = interleaved(
        scale.rounds,
        say,
        "commit",
        lambda: (
            run(_opened_rate(fresh_copy(opened), scale)),
            run(_region_rate(fresh_copy(region), scale)),
        ),
        lambda: raw_commit_rate(folder, WRITERS, scale.seconds, preloaded=scale.preloaded).rows_per_second,
    )
    names = (
        (f"commit by atoll.open, {WRITERS} writers of 1 kB models", Goal("ratio", at_least=0.6)),
        ("commit by the region alone, of JSON text", None),
    )
    return [
        Figure(
            name="commit",
            measure=name,
            unit="rows/s",
            value=middle([pair[index] for pair in ours], float),
            peer="SQLite, same rows and batches",
            peer_value=middle(theirs, float),
            goal=goal,
            details={"atoll_rounds": [pair[index] for pair in ours], "peer_rounds": theirs},
        )
        for index, (name, goal) in enumerate(names)
    ]


async def _prepare_opened(folder: Path, preloaded: int, say: Say) -> None:
    async with atoll.open(APPLICATION, data=folder) as database:
        await preload(database.region, preloaded, say)


async def _prepare_region(folder: Path, preloaded: int, say: Say) -> None:
    async with region_in(folder) as region:
        await acquaint(region, [peer for peer in region.regions if peer != region.name])
        await preload(region, preloaded, say)


async def _opened_rate(folder: Path, scale: Scale) -> float:
    """The application's view: a model goes in, the stored one comes back."""
    async with atoll.open(APPLICATION, data=folder) as database:

        async def put(number: int) -> None:
            await database.put(Record(key=document_key(number), **_BODIES[number % len(_BODIES)]))

        return await _rate(put, scale)


async def _region_rate(folder: Path, scale: Scale) -> float:
    """What the server adds HTTP to; with contexts as in a deployment of three regions."""
    async with region_in(folder) as region:
        rules = rules_of(region)

        async def put(number: int) -> None:
            await region.write(Write((put_number(rules, number),)))

        return await _rate(put, scale)


async def _rate(put: Callable[[int], Awaitable[None]], scale: Scale) -> float:
    """Rows a second of new documents beside those preloaded, each acknowledged before its writer's next."""
    numbers = count(scale.preloaded)
    started = perf_counter()
    written = 0

    async def writer() -> None:
        nonlocal written
        while perf_counter() - started < scale.seconds:
            await put(next(numbers))
            written += 1

    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    return written / (perf_counter() - started)
