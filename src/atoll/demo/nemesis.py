"""What befalls the regions: a cut link, then a region killed and started again, then everything heals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from atoll.demo.http_client import Unanswered, ask
from atoll.demo.topology import Topology
from atoll.errors import AtollError

BEFORE, CUT, DOWN, BACK, AFTER = "before", "link cut", "virginia down", "virginia back", "healed"
PHASES = (BEFORE, CUT, DOWN, BACK, AFTER)
VICTIM = "virginia"
LINK = ("tokyo", "frankfurt")

_CUT_AT, _KILL_AT, _RESTART_AT, _HEAL_AT = 0.2, 0.42, 0.54, 0.75
"""As parts of the opening hours."""


@dataclass(slots=True)
class Weather:
    """What is broken at present."""

    phase: str = BEFORE


@dataclass(frozen=True, slots=True)
class Nemesis:
    """Breaks things on schedule, and mends them."""

    _topology: Topology
    _http: aiohttp.ClientSession
    _weather: Weather
    _say: Callable[[str], None]

    async def run(self, seconds: float) -> None:
        opening = time.monotonic()

        async def until(part: float) -> None:
            await asyncio.sleep(max(0.0, opening + part * seconds - time.monotonic()))

        one, other = LINK
        await until(_CUT_AT)
        await self.partition(cut=True)
        self._weather.phase = CUT
        self._say(f"the link {one}–{other} is cut; {VICTIM} relays between them")
        await until(_KILL_AT)
        pid = self._topology.kill(VICTIM)
        self._weather.phase = DOWN
        self._say(
            f"kill -9 {pid}: {VICTIM} is gone; {one} and {other} sell on, each alone, from what it holds"
        )
        await until(_RESTART_AT)
        began = time.monotonic()
        self._topology.start(VICTIM)
        await self._topology.ready(self._http, VICTIM)
        self._weather.phase = BACK
        self._say(
            f"{VICTIM} is back after {time.monotonic() - began:.1f} s, and its customers' orders go through"
        )
        await until(_HEAL_AT)
        await self.partition(cut=False)
        self._weather.phase = AFTER
        self._say(f"the link {one}–{other} is whole again")

    async def partition(self, *, cut: bool) -> None:
        """Cut or heal the link, on both sides. Raises AtollError when a side refuses."""
        for region, peer in (LINK, LINK[::-1]):
            url = f"{self._topology.urls[region]}/admin/partition"
            try:
                answer = await ask(self._http, "POST", url, {"peer": peer, "cut": cut})
            except Unanswered as error:
                raise AtollError(f"{error}; see {self._topology.log(region)}") from error
            if answer.status != 200:
                raise AtollError(f"{region} refused to cut or heal its link: {answer.body}")
