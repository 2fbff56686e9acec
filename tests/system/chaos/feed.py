"""Consumers of the change feed: torn off, taken up elsewhere, and never missing or repeating anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import msgspec

from atoll.errors import Indefinite, RegionUnreachable

from .deployment import Deployment
from .history import History
from .workload import World


class Reader:
    """What one consumer has been told. Entries of each origin come one after the other, none twice."""

    def __init__(self, name: str, history: History) -> None:
        self.seen: dict[str, int] = {}
        self.stamps: dict[tuple[str, int], int] = {}
        """dot → stamp."""
        self.reconnects = 0
        self._name = name
        self._history = history

    def told(self, origin: str, seq: int, stamp: int) -> None:
        expected = self.seen.get(origin, 0) + 1
        told = f"{self._name}: entry {seq} of {origin} after {expected - 1}, connection {self.reconnects}"
        self._history.check("the feed misses and repeats nothing", seq == expected, told)
        self.seen[origin] = seq
        self.stamps[origin, seq] = stamp

    def has(self, position: Mapping[str, int]) -> bool:
        return all(self.seen.get(origin, 0) >= seq for origin, seq in position.items())


async def follow_by_client(world: World, reader: Reader) -> None:
    """Through the client, that mends the feed itself; left and taken up at another place every now and then."""
    cursor: str | None = None
    while True:
        left = _stay(world)
        with contextlib.suppress(RegionUnreachable, Indefinite, TimeoutError):
            changes = world.database().changes(cursor)
            async with asyncio.timeout(20.0), aclosing(changes):  # type: ignore[type-var]  # a generator
                async for change in changes:
                    reader.told(change.origin, change.seq, change.stamp)
                    cursor, left = change.cursor, left - 1
                    if not left:
                        break
        await _away(world, reader)


async def follow_by_hand(world: World, reader: Reader) -> None:
    """Plain server-sent events, now from this region, now from that one."""
    cursor = ""
    while True:
        region, left = world.caller.region(), _stay(world)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(20.0), aclosing(events(world.deployment, region, cursor)) as found:
                async for event in found:
                    reader.told(event["origin"], event["seq"], event["stamp"])
                    cursor, left = event["cursor"], left - 1
                    if not left:
                        break
        await _away(world, reader)


def _stay(world: World) -> int:
    """For so many events; often few, so that some connections end while they still catch up."""
    return int(10 ** world.random.uniform(0.0, 3.5))


async def _away(world: World, reader: Reader) -> None:
    reader.reconnects += 1
    await asyncio.sleep(0.02 if world.over.is_set() else world.random.choice((0.02, 0.2, 3.0)))


async def events(deployment: Deployment, region: str, cursor: str) -> AsyncGenerator[dict[str, Any], None]:
    """Raises aiohttp.ClientError, TimeoutError, OSError when the stream breaks."""
    headers = {"last-event-id": cursor} if cursor else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=15.0)
    url = deployment.urls[region] + "/v1/changes"
    async with deployment.http.get(url, headers=headers, timeout=timeout, read_bufsize=1 << 20) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: "):
                yield msgspec.json.decode(line[6:])


async def read_whole(
    deployment: Deployment, region: str, position: Mapping[str, int], reader: Reader
) -> None:
    """From the first entry to `position`. Raises TimeoutError."""
    async with asyncio.timeout(300.0), aclosing(events(deployment, region, "")) as lines:
        async for event in lines:
            reader.told(event["origin"], event["seq"], event["stamp"])
            if reader.has(position):
                return
