"""Failures of real regions under load: how long until all is well again, and which acknowledged writes are at risk.

Three regions, a process each, 25 ms apart. Two kinds of callers write all the while: one at the region that fails and
nowhere else, one through Atoll's client, which fails over. What they were told is written is looked for afterwards.
The region that fails keeps its documents in SQLite; where it is its database that fails, in PostgreSQL: `failover`.
A machine that loses its page cache is not among the failures: processes are killed, their kernel is not. Such failures,
and many more of each kind, happen on virtual time: `recovery_simulated`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from itertools import count, pairwise
from pathlib import Path
from time import perf_counter

import aiohttp

import atoll.client
from atoll.errors import AtollError, Unavailable
from bench import failover, recovery_simulated
from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.peers import NotMeasured
from bench.record import Record
from bench.regions import PREFIX, run
from bench.rounds import Say, Scale
from bench.served import Served, cut_apart, linked, serving, settled, wait_for

ONE_WAY_MS = 25
_NAMES = ("tokyo", "frankfurt", "virginia")
_RTT_MS = {"frankfurt-tokyo": 50, "tokyo-virginia": 50, "frankfurt-virginia": 50}
_WRITERS = 8
_PAUSE_S = 0.01
"""Between two writes of one writer: a load that leaves room, so that pauses are the failure's."""
_BEFORE_S = 1.0
_AFTER_S = 0.5
_APART = 100_000
"""Documents of one failure are not those of the next."""
_TIMEOUT_S = 2.0
_PATIENCE_S = 60.0
_JSON = {"Content-Type": "application/json"}
Failure = Callable[[], Awaitable[None]]
"""Returns when its cause is gone."""


@dataclass(slots=True)
class Written:
    """What one kind of callers was told."""

    at: dict[int, float] = field(default_factory=dict)
    """document → when it was acknowledged"""
    calls: list[tuple[float, float]] = field(default_factory=list)
    """When each began and ended, whatever came of it."""

    def longest_pause_s(self) -> float:
        return max((later - earlier for earlier, later in pairwise(sorted(self.at.values()))), default=0.0)

    def longest_call_s(self, moment: float, *, in_flight: bool) -> float:
        """Of those that were going on at that moment, or of those that began later."""
        return max(
            (
                ended - began
                for began, ended in self.calls
                if (began < moment < ended if in_flight else began >= moment)
            ),
            default=0.0,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Of one failure."""

    silent_s: float
    """The longest time without an acknowledgement, for callers of the failing region."""
    in_flight_s: float
    """The longest call, with failover, of those that were going on when it happened."""
    later_s: float
    """The same of those that began afterwards."""
    healed_s: float
    """From the failure's end until every region has what any region had at that moment."""
    acknowledged: int
    lost: int
    at_risk_ms: float
    """How long before the failure the first lost write was acknowledged."""
    cause_s: float
    """How long what failed was away itself."""


class _Scene:
    """What is done to the first of three regions; each failure returns when its cause is gone."""

    def __init__(self, regions: list[Served], down_s: float) -> None:
        self.regions = regions
        self.failing = regions[0]
        self.down_s = down_s

    async def process(self) -> None:
        """`kill -9`, and a service manager that starts it again at once."""
        self.failing.kill()
        await self._start([self.failing])

    async def power(self) -> None:
        """Every process of every region at once."""
        for region in self.regions:
            region.kill()
        await self._start(self.regions)

    async def region(self) -> None:
        """Its process and its disk; it comes back with nothing."""
        self.failing.kill()
        shutil.rmtree(self.failing.data)
        await asyncio.sleep(self.down_s)
        await self._start([self.failing])

    async def link(self) -> None:
        """All links of the region, for some seconds."""
        for other in self.regions[1:]:
            await asyncio.to_thread(cut_apart, [self.failing, other], True)
        await asyncio.sleep(self.down_s)
        for other in self.regions[1:]:
            await asyncio.to_thread(cut_apart, [self.failing, other], False)

    async def _start(self, regions: list[Served]) -> None:
        for region in regions:
            region.start()
        for region in regions:
            await asyncio.to_thread(region.wait)


KINDS: dict[str, str] = {
    "process": "process, kill -9",
    "power": "every process of all regions, kill -9",
    "region": "region with its disk",
    "link": "all links of a region",
}
_LOSING = {"region", "asynchronous"}
"""Of what was acknowledged, these may lose what nobody else had yet: how much is told, and is no goal."""


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures = []
    for kind, name in KINDS.items():
        place = folder / kind
        place.mkdir()
        with serving(place, _NAMES, _RTT_MS) as regions:
            linked(regions)
            found = []
            for number in range(1, scale.failures + 1):
                say(f"recovery: {name}, {number} of {scale.failures}")
                failure: Failure = getattr(_Scene(regions, scale.down_seconds), kind)
                found.append(run(_fail(failure, regions, first=number * _APART)))
            figures += _figures(kind, name, worst(found))
    for kind, name in failover.KINDS.items():
        figures += _of_databases(kind, name, scale.failures, folder, say)
    return [*figures, *recovery_simulated.measure(scale.simulated_failures, say)]


def _of_databases(kind: str, name: str, failures: int, folder: Path, say: Say) -> list[Figure]:
    """Every failure has regions of its own: a primary that was left behind is none to fail over to."""
    found = []
    for number in range(1, failures + 1):
        say(f"recovery: {name}, {number} of {failures}")
        place = folder / f"{kind}-{number}"
        place.mkdir()
        try:
            with (
                failover.running(place, kind) as database,
                serving(place, _NAMES, _RTT_MS, {_NAMES[0]: database.url}) as regions,
            ):
                linked(regions)
                found.append(run(_fail(database.fail, regions, first=number * _APART)))
        except NotMeasured as reason:
            return [_lost(kind, name, None, not_measured=str(reason))]
    return _figures(kind, name, worst(found))


def _figures(kind: str, name: str, found: Found) -> list[Figure]:
    lines = [
        ("takes no writes for", "s", found.silent_s),
        ("a call in flight, with failover, takes at most", "s", found.in_flight_s),
        ("a later call, with failover, takes at most", "s", found.later_s),
        ("equal again, once it is over, after", "s", found.healed_s),
    ]
    if kind in failover.KINDS:
        lines.insert(1, ("of which the database itself", "s", found.cause_s))
    if kind in _LOSING:
        lines.append(("what is lost was acknowledged at most so long before", "ms", found.at_risk_ms))
    return [
        *(Figure("recovery", f"{name}: {what}", unit, value) for what, unit, value in lines),
        _lost(kind, name, found),
    ]


def _lost(kind: str, name: str, found: Found | None, not_measured: str = "") -> Figure:
    return Figure(
        name="recovery",
        measure=f"{name}: acknowledged writes lost",
        unit="",
        value=None if found is None else float(found.lost),
        peer="" if found is None else f"of {found.acknowledged:,}",
        goal=None if kind in _LOSING else Goal("value", at_most=0),
        not_measured=not_measured,
    )


def worst(found: Sequence[Found]) -> Found:
    """The longest of every time, and all that was lost, of several failures."""
    added = {"acknowledged", "lost"}
    names = [each.name for each in fields(Found)]
    return Found(**{name: (sum if name in added else max)(getattr(f, name) for f in found) for name in names})


async def _fail(failure: Failure, regions: list[Served], first: int) -> Found:
    """`first`: the number of the first document that is written."""
    direct, moving = Written(), Written()
    async with _callers(regions, direct, moving, first):
        await asyncio.sleep(_BEFORE_S)
        began = perf_counter()
        await failure()
        ended = perf_counter()
        await asyncio.to_thread(_caught_up, regions)
        healed_s = perf_counter() - ended
        await _written_since(direct, ended)
    await asyncio.to_thread(settled, regions)
    acknowledged = {**direct.at, **moving.at}
    lost = await _missing(regions[-1], list(acknowledged))
    return Found(
        silent_s=direct.longest_pause_s(),
        in_flight_s=moving.longest_call_s(began, in_flight=True),
        later_s=moving.longest_call_s(began, in_flight=False),
        healed_s=healed_s,
        acknowledged=len(acknowledged),
        lost=len(lost),
        at_risk_ms=max((began - acknowledged[number] for number in lost), default=0.0) * 1000,
        cause_s=ended - began,
    )


def _caught_up(regions: list[Served]) -> None:
    """Wait until every region has what any region has now."""
    wanted: dict[str, int] = {}
    for region in regions:
        for origin, seq in region.status()["position"].items():
            wanted[origin] = max(seq, wanted.get(origin, 0))

    def there() -> bool:
        return all(
            region.status()["position"].get(origin, 0) >= seq
            for region in regions
            for origin, seq in wanted.items()
        )

    wait_for(there, "the regions do not catch up", _PATIENCE_S)


async def _written_since(written: Written, moment: float) -> None:
    deadline = perf_counter() + _PATIENCE_S
    while max(written.at.values(), default=0.0) < moment + _AFTER_S:
        if perf_counter() > deadline:
            raise Unavailable(f"the region that failed takes no writes, {_PATIENCE_S:.0f} s later")
        await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def _callers(
    regions: list[Served], direct: Written, moving: Written, first: int
) -> AsyncIterator[None]:
    """Both kinds, from here to the end of the block; every document is new."""
    numbers = count(first)
    urls = {region.name: region.url for region in regions}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
        atoll.client.connect(urls, near=regions[0].name) as database,
    ):

        async def put_here(number: int) -> bool:
            url = regions[0].url + PREFIX + document_key(number)
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with session.put(url, data=document_body(number), headers=_JSON) as response:
                    await response.read()
                    return response.status == 200
            return False

        async def put_anywhere(number: int) -> bool:
            with suppress(AtollError):
                await database.put(Record(key=document_key(number), **json.loads(document_body(number))))
                return True
            return False

        async def write(put: Callable[[int], Awaitable[bool]], written: Written) -> None:
            for number in numbers:
                began = perf_counter()
                taken = await put(number)
                ended = perf_counter()
                written.calls.append((began, ended))
                if taken:
                    written.at[number] = ended
                await asyncio.sleep(_PAUSE_S)

        tasks = [
            asyncio.create_task(write(put, written))
            for put, written in ((put_here, direct), (put_anywhere, moving))
            for _ in range(_WRITERS)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _missing(region: Served, numbers: list[int]) -> list[int]:
    """Those that a region does not have."""
    missing = []
    left = iter(numbers)
    async with aiohttp.ClientSession() as session:

        async def look() -> None:
            for number in left:
                async with session.get(region.url + PREFIX + document_key(number)) as response:
                    await response.read()
                    if response.status == 404:
                        missing.append(number)

        await asyncio.gather(*(look() for _ in range(_WRITERS)))
    return missing
