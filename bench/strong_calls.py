"""Callers in several regions at once, in one process of their own: bare connections, each with one request at a time.

`send` asks as fast as answers come. `probe` asks at fixed moments, whether earlier questions were answered or not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple, Protocol

from bench.load import Connection, address, connected, phase

PROBE_S = 0.02


class Encoded(Protocol):
    def encode(self, host: str) -> bytes: ...


Request = Callable[[int], Encoded]
"""What request number `n` is. It crosses a process boundary."""


class Plan(NamedTuple):
    """What the callers of one region send."""

    url: str
    request: Request
    numbers: range
    connections: int = 1


class Sent(NamedTuple):
    """What came of one plan."""

    took_ns: list[int]
    statuses: Mapping[int, int]
    seconds: float

    @property
    def succeeded(self) -> int:
        return self.statuses.get(200, 0)

    @property
    def per_second(self) -> float:
        """Of those that succeeded."""
        return self.succeeded / self.seconds

    @property
    def p50_ms(self) -> float:
        return median(self.took_ns) / 1e6


class Probe(NamedTuple):
    """A request that succeeded; by `perf_counter`, which all processes share on Linux."""

    began: float
    ended: float


async def send(kind: Callable[[], Connection], plans: Sequence[Plan]) -> list[Sent]:
    """All plans at once."""

    async def follow(plan: Plan) -> Sent:
        host, port = address(plan.url)
        encoded = [plan.request(number).encode(f"{host}:{port}") for number in plan.numbers]
        opened = await connected(host, port, plan.connections, kind)
        try:
            started = perf_counter()
            took_ns, statuses = await phase(opened, encoded)
            return Sent(took_ns, dict(statuses), perf_counter() - started)
        finally:
            for connection in opened:
                connection.close()

    return await asyncio.gather(*(follow(plan) for plan in plans))


async def probe(kind: Callable[[], Connection], plans: Sequence[Plan]) -> list[list[Probe]]:
    """One request of each plan every `PROBE_S`, over connections of its own. Those that fail are left out."""

    async def follow(plan: Plan) -> list[Probe]:
        host, port = address(plan.url)
        encoded = [plan.request(number).encode(f"{host}:{port}") for number in plan.numbers]
        idle: list[Connection] = []
        found: list[Probe] = []

        async def ask(request: bytes) -> None:
            began = perf_counter()
            connection = idle.pop() if idle else (await connected(host, port, 1, kind))[0]
            statuses: Counter[int] = Counter()
            await connection.work(iter([request]), [], statuses)
            idle.append(connection)
            if statuses[200]:
                found.append(Probe(began, perf_counter()))

        asked = []
        for request in encoded:
            asked.append(asyncio.create_task(ask(request)))
            await asyncio.sleep(PROBE_S)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return found

    return await asyncio.gather(*(follow(plan) for plan in plans))
