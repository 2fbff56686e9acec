"""`python -m bench.soak [--minutes N] [--json FILE]`: three regions at 70% of what they can, a partition every minute.

All regions write the same documents, so that conflicts come with every partition. Memory, files and lag are
recorded over time; what counts is whether they grow.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, linear_regression, median
from time import monotonic

from rich.console import Console

from bench.callers import apart
from bench.documents import document_body, document_key
from bench.figures import Curve, Figure, Goal, report_json, report_of, table_of
from bench.load import Request, address, connected, phase
from bench.machine import machine
from bench.regions import PREFIX
from bench.rounds import Say
from bench.served import Served, cut_apart, linked, serving, settled

LATEST = Path(__file__).with_name("results") / "soak.json"
SHARE = 0.7
PARTITION_EVERY_S = 60.0
PARTITION_S = 10.0
_CALM_S = 20.0
"""After a partition, before samples count for slopes again: what was written meanwhile has to arrive."""
_NAMES = ("tokyo", "frankfurt", "virginia")
_RTT_MS = {"frankfurt-tokyo": 40, "tokyo-virginia": 30, "frankfurt-virginia": 20}
_DOCUMENTS = 10_000
_KEPT = ("journal_hours = 0.05", "audit_max = 20_000")
"""Little enough for what is kept to come and go within the run: by default it is a day, and a million records."""
_CONNECTIONS = 16
_WAVE = 300
_TICK_S = 0.1
_NOISE = 0.05
"""Memory and files may grow by this share over the second half: an allocator's noise."""


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    cut: bool
    resident_mb: float
    """Of the largest region."""
    stored_mb: float
    """Of all regions."""
    lag_s: float
    """Of the link that is furthest behind, as the regions themselves say."""
    behind: int
    """Entries that some region lacks."""
    writes: int
    """Taken so far, by all regions."""


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended then, too
    progress = Console(stderr=True)
    started = monotonic()

    def say(what: str) -> None:
        progress.print(f"{monotonic() - started:5.0f} s  {what}")

    with (
        tempfile.TemporaryDirectory(prefix="atoll-soak-", dir=options.folder) as folder,
        serving(Path(folder), _NAMES, _RTT_MS, deployment=_KEPT) as regions,
    ):
        linked(regions)
        say("capacity: all regions write as fast as they can")
        capacity = _capacity(regions, options.minutes)
        say(
            f"capacity {capacity:,.0f} writes/s in all; now {SHARE:.0%} of it for {options.minutes:g} minutes"
        )
        samples, statuses = _soak(regions, capacity * SHARE, options.minutes * 60, say)
        say("all has been written: the regions settle")
        settled(regions)
        equal = len({str(region.ask("GET", "/admin/digest")["collections"]) for region in regions}) == 1
    figures = figures_of(samples, statuses, capacity, equal)
    curves = curves_of(samples)
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(figures))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    about = {**machine(started), "minutes": options.minutes}
    options.json.write_text(report_json(report_of([*figures, *curves], about)) + "\n", "utf-8")
    progress.print(f"written to {options.json}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where databases are made: the disk that is measured")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes takes more than 0")
    return options


def _capacity(regions: list[Served], minutes: float) -> float:
    """Writes a second of all regions together, replicated everywhere."""
    seconds = min(20.0, max(3.0, minutes * 4))
    started = monotonic()
    statuses = apart(write_paced, [region.url for region in regions], None, seconds)
    settled(regions, 300)
    assert set(statuses) == {200}, statuses
    return sum(statuses.values()) / (monotonic() - started)


def _soak(
    regions: list[Served], per_second: float, seconds: float, say: Say
) -> tuple[list[Sample], dict[int, int]]:
    every_s = 1.0 if seconds <= 600 else 5.0
    samples: list[Sample] = []
    with ThreadPoolExecutor(1) as pool:
        urls = [region.url for region in regions]
        writing = pool.submit(apart, write_paced, urls, per_second, seconds)
        nemesis = _Nemesis(regions)
        started = monotonic()
        while not writing.done():
            at_s = monotonic() - started
            nemesis.step(at_s)
            samples.append(_sample(regions, at_s, nemesis.cut))
            if len(samples) % 30 == 1:
                last = samples[-1]
                say(
                    f"{at_s:.0f} of {seconds:.0f} s: {last.resident_mb:.0f} MB resident, {last.behind:,} behind,"
                    f" lag {last.lag_s:.2f} s{', cut' if last.cut else ''}"
                )
            _wait(writing, every_s)
        nemesis.heal()
        return samples, writing.result()


def _wait(writing: Future[dict[int, int]], seconds: float) -> None:
    deadline = monotonic() + seconds
    while monotonic() < deadline and not writing.done():
        time.sleep(0.05)


def victim_at(at_s: float, regions: int) -> int | None:
    """Which region is cut off: every minute another one, for a while in the middle of the minute."""
    minute, second = divmod(at_s, PARTITION_EVERY_S)
    began = PARTITION_EVERY_S / 2
    return int(minute) % regions if began <= second < began + PARTITION_S else None


class _Nemesis:
    """Cuts one region off at a time, and heals it."""

    def __init__(self, regions: list[Served]) -> None:
        self._regions = regions
        self._victim: Served | None = None

    @property
    def cut(self) -> bool:
        return self._victim is not None

    def step(self, at_s: float) -> None:
        number = victim_at(at_s, len(self._regions))
        if number is None:
            self.heal()
        elif self._victim is None:
            self._victim = self._regions[number]
            self._set(True)

    def heal(self) -> None:
        if self._victim is not None:
            self._set(False)
            self._victim = None

    def _set(self, cut: bool) -> None:
        assert self._victim is not None
        for other in self._regions:
            if other is not self._victim:
                cut_apart([self._victim, other], cut)


def _sample(regions: list[Served], at_s: float, cut: bool) -> Sample:
    found = [region.status() for region in regions]
    positions = [status["position"] for status in found]
    best = {name: max(position.get(name, 0) for position in positions) for name in _NAMES}
    lags = [link["lag_s"] or 0.0 for status in found for link in status["links"].values()]
    return Sample(
        at_s=round(at_s, 1),
        cut=cut,
        resident_mb=max(region.resident_mb() for region in regions),
        stored_mb=sum(region.stored_mb() for region in regions),
        lag_s=max(lags),
        behind=sum(best[name] - position.get(name, 0) for position in positions for name in _NAMES),
        writes=sum(status["counted"]["writes"] for status in found),
    )


async def write_paced(urls: list[str], per_second: float | None, seconds: float) -> dict[int, int]:
    """PUTs to all regions at one rate in all, or as fast as they go; status → how many.

    What was not answered in one tick holds up the next: a region that stalls is not flooded afterwards.
    """
    random = Random("soak")
    opened = []
    for url in urls:
        host, port = address(url)
        opened.append((f"{host}:{port}", await connected(host, port, _CONNECTIONS)))
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    started, sent, number = loop.time(), 0, 0
    while loop.time() - started < seconds:
        elapsed = loop.time() - started
        wave = _WAVE if per_second is None else min(_WAVE * 4, int(elapsed * per_second) - sent)
        if wave > 0:
            numbers = iter(range(number, number + wave))
            shares = [wave // len(opened) + (index < wave % len(opened)) for index in range(len(opened))]
            answered = await asyncio.gather(
                *(
                    phase(connections, [_put(next(numbers), random, host) for _ in range(share)])
                    for share, (host, connections) in zip(shares, opened, strict=True)
                )
            )
            for _, counted in answered:
                statuses.update(counted)
            sent += wave
            number += wave
        if per_second is not None:
            await asyncio.sleep(max(0.0, _TICK_S - (loop.time() - started - elapsed)))
    for _, connections in opened:
        for connection in connections:
            connection.close()
    return dict(statuses)


def _put(number: int, random: Random, host: str) -> bytes:
    path = PREFIX + document_key(random.randrange(_DOCUMENTS))
    headers = {"Content-Type": "application/json"}
    return Request("PUT", path, document_body(number), headers).encode(host)


# -- what it means -------------------------------------------------------------------------------------


def figures_of(
    samples: Sequence[Sample], statuses: dict[int, int], capacity: float, equal: bool
) -> list[Figure]:
    half = [sample for sample in samples if sample.at_s >= samples[-1].at_s / 2]
    quiet = list(calm(half)) or half
    first, last = samples[0], samples[-1]
    seconds = last.at_s - first.at_s
    written = last.writes - first.writes
    half_s = half[-1].at_s - half[0].at_s
    resident, stored = (
        fmean(getattr(sample, name) for sample in half) for name in ("resident_mb", "stored_mb")
    )
    grown = slope(half, "resident_mb") * half_s / resident
    refused = sum(count for status, count in statuses.items() if status != 200)
    return [
        Figure("soak", "writes, all regions together", "/s", written / seconds, "capacity", capacity),
        Figure("soak", "writes that were not taken", "", float(refused), goal=Goal("value", at_most=0)),
        Figure(
            "soak",
            "memory grown over the second half, of the largest region",
            "%",
            grown * 100,
            goal=Goal("value", at_most=_NOISE * 100),
            details={"mb_per_hour": slope(half, "resident_mb") * 3600, "mean_mb": resident},
        ),
        Figure("soak", "lag grown, away from partitions", "s/hour", slope(quiet, "lag_s") * 3600),
        Figure(
            "soak",
            "lag away from partitions, p50",
            "s",
            median(sample.lag_s for sample in quiet),
            goal=Goal("value", at_most=1.0),
        ),
        Figure(
            "soak",
            "files grown over the second half, of all regions",
            "%",
            slope(half, "stored_mb") * half_s / stored * 100,
            goal=Goal("value", at_most=_NOISE * 100),
            details={"mb_per_hour": slope(half, "stored_mb") * 3600, "mean_mb": stored},
        ),
        Figure("soak", "regions equal at the end", "", float(equal), goal=Goal("value", at_least=1)),
    ]


def curves_of(samples: Sequence[Sample]) -> list[Curve]:
    def line(name: str) -> list[tuple[float, float]]:
        return [(sample.at_s, round(float(getattr(sample, name)), 3)) for sample in samples]

    seconds = "seconds"
    return [
        Curve(
            "soak", "soak-memory", "Resident, the largest region", seconds, "MB", {"MB": line("resident_mb")}
        ),
        Curve("soak", "soak-files", "Stored, all regions", seconds, "MB", {"MB": line("stored_mb")}),
        Curve("soak", "soak-lag", "Lag of the furthest link", seconds, "s", {"s": line("lag_s")}),
        Curve(
            "soak", "soak-behind", "Entries that some region lacks", seconds, "entries", {"": line("behind")}
        ),
    ]


def calm(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Those with no partition, nor one shortly before."""
    disturbed_at = -_CALM_S
    for sample in samples:
        if sample.cut:
            disturbed_at = sample.at_s
        elif sample.at_s - disturbed_at >= _CALM_S:
            yield sample


def slope(samples: Sequence[Sample], name: str) -> float:
    """Of the line nearest to all samples, a second."""
    times = [sample.at_s for sample in samples]
    if len(set(times)) < 2:
        return 0.0
    return linear_regression(times, [float(getattr(sample, name)) for sample in samples]).slope


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
