"""How long each region could not be written to, or not be read, as its own clients see it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from .deployment import Deployment

_EVERY_S = 0.1
_TIMEOUT = aiohttp.ClientTimeout(total=1.0)


@dataclass(slots=True)
class Availability:
    writes_lost_s: float = 0.0
    reads_lost_s: float = 0.0
    longest_s: float = 0.0
    """The longest time without a write."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why writes were refused: a status, or `no answer`."""


class Probe:
    def __init__(self, deployment: Deployment, region: str) -> None:
        self.found = Availability()
        self._deployment = deployment
        self._region = region
        self._number = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        written_at = read_at = time.monotonic()
        while True:
            written, read = await self._write(), await self._read()
            now = time.monotonic()
            # An interval counts from the last success; what a healthy region takes is not missed.
            if written:
                self._lost(now - written_at)
                written_at = now
            if read:
                if now - read_at > 1.0:
                    self.found.reads_lost_s += now - read_at
                read_at = now
            await asyncio.sleep(_EVERY_S)

    def _lost(self, seconds: float) -> None:
        if seconds > 1.0:
            self.found.writes_lost_s += seconds
            self.found.longest_s = max(self.found.longest_s, seconds)

    async def _write(self) -> bool:
        self._number += 1
        return await self._ask("PUT", {"number": self._number})

    async def _read(self) -> bool:
        return await self._ask("GET", None)

    async def _ask(self, method: str, body: dict[str, int] | None) -> bool:
        url = f"{self._deployment.urls[self._region]}/v1/mark/{self._region}"
        try:
            async with self._deployment.http.request(method, url, json=body, timeout=_TIMEOUT) as response:
                await response.read()
                if method == "PUT" and response.status != 200:
                    self.found.reasons[str(response.status)] += 1
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            if method == "PUT":
                self.found.reasons["no answer"] += 1
            return False
