"""Watches the regions: their status, and how long a write takes to be seen in each other region."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import msgspec

from atoll.demo.http_client import Unanswered, ask
from atoll.demo.ledger import percentile
from atoll.demo.nemesis import PHASES, Weather
from atoll.demo.topology import REGIONS, Topology

_MARK_EVERY_S = 0.5
_STATUS_EVERY_S = 0.5
_RETRY_S = 0.1
_SHORT_S = 2.0
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=2.0)


class Lag(NamedTuple):
    """From the acknowledgement in one region to the event in another one's change feed."""

    phase: str
    """When it was acknowledged."""
    origin: str
    region: str
    milliseconds: float


@dataclass(slots=True)
class Observer:
    """`watch` runs until it is cancelled."""

    _topology: Topology
    _http: aiohttp.ClientSession
    _weather: Weather
    _surprised: Callable[[str], None]
    statuses: dict[str, dict[str, Any] | None] = field(default_factory=lambda: dict.fromkeys(REGIONS))
    """region → what it last said of itself; None when it did not answer."""
    lags: list[Lag] = field(default_factory=list)
    latest: dict[tuple[str, str], float] = field(default_factory=dict)
    """(origin, region) → the last lag in milliseconds."""
    _pending: defaultdict[tuple[str, str], deque[tuple[int, float, str]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    """(origin, region) → marks that are waited for: number, when acknowledged, in which phase."""

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            for region in REGIONS:
                group.create_task(self._ask(region))
                group.create_task(self._follow(region))
                group.create_task(self._mark(region))

    def oldest_wait_s(self, origin: str, region: str) -> float:
        """How long the oldest mark of `origin` has been waited for in `region`; 0 when none is."""
        pending = self._pending[origin, region]
        return time.monotonic() - pending[0][1] if pending else 0.0

    def by_phase(self) -> dict[str, dict[str, float]]:
        """phase → how many marks, and their p50, p99 and maximum in milliseconds."""
        table = {}
        for phase in PHASES:
            lags = [lag.milliseconds for lag in self.lags if lag.phase == phase]
            if lags:
                table[phase] = {
                    "marks": float(len(lags)),
                    "p50_ms": round(percentile(lags, 0.5), 1),
                    "p99_ms": round(percentile(lags, 0.99), 1),
                    "max_ms": round(max(lags), 1),
                }
        return table

    async def _ask(self, region: str) -> None:
        url = self._topology.urls[region] + "/admin/status"
        while True:
            try:
                self.statuses[region] = (await ask(self._http, "GET", url, within_s=_SHORT_S)).body
            except Unanswered:
                self.statuses[region] = None
            await asyncio.sleep(_STATUS_EVERY_S)

    async def _mark(self, region: str) -> None:
        """Write numbers in one region, for `_follow` to see in the others."""
        url = f"{self._topology.urls[region]}/v1/marker/{region}"
        number = 0
        while True:
            await asyncio.sleep(_MARK_EVERY_S)
            number += 1
            try:
                answer = await ask(self._http, "PUT", url, {"number": number}, within_s=_SHORT_S)
            except Unanswered:
                continue  # it is down; a number that is not acknowledged is not waited for
            if answer.status != 200:
                self._surprised(f"{region} answered {answer.status} to a marker: {answer.body}")
                continue
            now = time.monotonic()
            for other in REGIONS:
                if other != region:
                    self._pending[region, other].append((number, now, self._weather.phase))

    async def _follow(self, region: str) -> None:
        """Read the region's change feed, and go on where it broke off."""
        url = self._topology.urls[region] + "/v1/changes?collection=marker"
        cursor = "now"
        while True:
            try:
                async with self._http.get(
                    url, headers={"last-event-id": cursor}, timeout=_STREAM
                ) as response:
                    async for line in response.content:
                        if line.startswith(b"data: ") and line.endswith(b"\n"):
                            event = msgspec.json.decode(line[6:])
                            cursor = event["cursor"]
                            self._seen(region, event)
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(_RETRY_S)

    def _seen(self, region: str, event: dict[str, Any]) -> None:
        now = time.monotonic()
        for change in event["changes"]:
            pending = self._pending[change["key"], region]
            while pending and pending[0][0] <= change["value"]["number"]:
                _, written, phase = pending.popleft()
                lag_ms = (now - written) * 1000
                self.latest[change["key"], region] = lag_ms
                self.lags.append(Lag(phase, change["key"], region, lag_ms))
