"""Conflicts: how many a region resolves a second, by strategy; and how long a write stays open to one."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

from atoll.documents.mutation import Write, put_of
from atoll.region.region import Region
from atoll.schema.application import application_of
from bench.apply import deliver, sent
from bench.documents import document_body, document_key
from bench.figures import Figure
from bench.propagation import lag_ms
from bench.regions import PREFIX, acquaint, fresh_copy, region_in, run
from bench.rounds import Say, Scale, interleaved
from bench.served import Served, linked, serving, settled
from bench.strategies import Fww, Lww, Manual, Merge, Own

STRATEGIES = {
    "lww": "last write wins",
    "fww": "first write wins",
    "merge": "merge, field by field",
    "own": "a function of one's own",
    "manual": "manual, versions kept",
}
ONE_WAY_MS = (0, 25, 75)
_APPLICATION = application_of(Lww, Fww, Merge, Own, Manual, name="bench")
_WRITERS = 64
_ELSEWHERE = 500_000


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    return [*_resolution(scale, folder, say), *_windows(scale, folder, say)]


def _resolution(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures = []
    for strategy, name in STRATEGIES.items():
        say(f"{name}: {scale.conflicts:,} documents are written in two regions")
        chunks = run(written_there(strategy, scale.conflicts))
        untouched, written = folder / f"{strategy}-untouched", folder / f"{strategy}-written"
        run(written_here(untouched, strategy, 0))
        run(written_here(written, strategy, scale.conflicts))
        ours, theirs = interleaved(
            scale.rounds,
            say,
            f"{name}, conflicts",
            partial(_rate, written, strategy, chunks, scale.conflicts, scale.conflicts),
            partial(_rate, untouched, strategy, chunks, scale.conflicts, 0),
        )
        figures.append(
            Figure(
                name="conflicts",
                measure=f"conflicts resolved, {name}",
                unit="/s",
                value=median(ours),
                peer="applied without a conflict",
                peer_value=median(theirs),
                details={"atoll_rounds": ours, "peer_rounds": theirs},
            )
        )
    return figures


async def written_there(collection: str, count: int) -> list[bytes]:
    """What the other region's link carries."""
    async with region_in(None, "there", _APPLICATION) as source:
        await acquaint(source, ["yonder"])
        await _write(source, collection, count, 1)
        return await sent(source, {})


async def written_here(folder: Path, collection: str, count: int) -> None:
    async with region_in(folder, application=_APPLICATION) as region:
        await acquaint(region, ["yonder"])
        await _write(region, collection, count, 0)


async def _write(region: Region, collection: str, count: int, body_shift: int) -> None:
    rules = region.rules[collection]
    left = iter(range(count))

    async def writer() -> None:
        for number in left:
            put = put_of(rules, document_key(number), document_body(number + body_shift))
            await region.write(Write((put,)))

    await asyncio.gather(*(writer() for _ in range(_WRITERS)))


def _rate(folder: Path, collection: str, chunks: list[bytes], count: int, conflicts: int) -> float:
    return run(applied(fresh_copy(folder), collection, chunks, count, conflicts))


async def applied(folder: Path, collection: str, chunks: list[bytes], count: int, conflicts: int) -> float:
    """Documents a second, from the link's frames to durable."""
    async with region_in(folder, application=_APPLICATION) as region:
        started = perf_counter()
        await deliver(region, chunks)
        await region.group_commit.progress.covered({"there": count})
        elapsed = perf_counter() - started
        found = region.statistics.conflicts.total()
        assert found >= conflicts if conflicts else found == 0, f"{found} conflicts, not {conflicts}"
        return count / elapsed


def _windows(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures = []
    for one_way_ms in ONE_WAY_MS:
        say(f"conflict window over {one_way_ms} ms: {scale.samples} pairs of writes")
        place = folder / f"window-{one_way_ms}"
        place.mkdir()
        with serving(place, ["here", "there"], {"here-there": 2 * one_way_ms}) as (here, there):
            linked([here, there])
            lags = lag_ms(here, there, scale.samples, _ELSEWHERE)
            samples = _pairs(here, there, one_way_ms, scale.samples)
        figures.append(
            Figure(
                name="conflicts",
                measure=f"width of the conflict window, {one_way_ms} ms one way",
                unit="ms",
                value=width_ms(samples),
                peer="lag of one write, p50",
                peer_value=median(lags),
                details={"pairs": [[round(after_ms, 2), clashed] for after_ms, clashed in samples]},
            )
        )
    return figures


def _pairs(here: Served, there: Served, one_way_ms: float, samples: int) -> list[tuple[float, bool]]:
    """(ms after the first write's acknowledgement at which the other region was asked, whether they clashed)"""
    random = Random("window")
    found = []
    for number in range(samples):
        path, before = PREFIX + document_key(number), _conflicts(here) + _conflicts(there)
        here.ask("PUT", path, _body(number))
        acknowledged = perf_counter()
        time.sleep(random.uniform(0, 2 * one_way_ms + 15) / 1000)
        after_ms = (perf_counter() - acknowledged) * 1000
        there.ask("PUT", path, _body(number + 1))
        settled([here, there])
        found.append((after_ms, _conflicts(here) + _conflicts(there) > before))
    return sorted(found)


def width_ms(samples: list[tuple[float, bool]]) -> float:
    """The time that parts those that clashed from those that did not, with the fewest on the wrong side."""
    times = [0.0, *(after_ms for after_ms, _ in samples)]
    edges = [(one + other) / 2 for one, other in pairwise(times)] + [times[-1]]

    def wrong(edge: float) -> int:
        return sum(clashed != (after_ms <= edge) for after_ms, clashed in samples)

    return min(edges, key=wrong)


def _conflicts(region: Served) -> int:
    return sum(region.status()["counted"]["conflicts"].values())


def _body(number: int) -> object:
    return json.loads(document_body(number))
