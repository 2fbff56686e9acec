"""On a healthy network: bounded reads are served, and links stay up, however the writes fall."""

from __future__ import annotations

import asyncio

from atoll.errors import AtollError, TooStale
from atoll.region.reading import ReadOptions
from atoll.simulation.world import Workload, World

_BOUND_S = 2.0


class Freshness(Workload):
    """Only for runs without faults. One region writes at a steady pace; all others must know themselves fresh."""

    name = "freshness"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._reconnects: dict[tuple[str, str], int] = {}

    async def run(self, world: World) -> None:
        random = world.cluster.split("freshness")
        writer = world.client("freshness-0")
        await asyncio.sleep(3.0)
        self._reconnects = self._count(world)
        pace_s = random.choice((0.05, 0.1, 0.15, 0.3))
        number = 0
        while not world.stopped:
            await asyncio.sleep(pace_s)
            number += 1
            await writer.put("member", "fresh", {"text": str(number)}, session=False)
            if number % 10 == 0:
                await self._read(world, random.choice(world.names))

    async def finish(self, world: World) -> None:
        broken = {pair: n for pair, n in self._count(world).items() if n > self._reconnects.get(pair, n)}
        if broken:
            world.verdict.liveness("links stay up on a healthy network", f"they were opened anew: {broken}")

    @staticmethod
    def _count(world: World) -> dict[tuple[str, str], int]:
        return {
            (name, peer): link.status.reconnects
            for name in world.cluster.nodes
            for peer, link in world.cluster.region(name).links.items()
        }

    @staticmethod
    async def _read(world: World, name: str) -> None:
        options = ReadOptions("bounded", None, _BOUND_S, 0.5)
        try:
            await world.ask(name, lambda region: region.read("member", "fresh", options))
        except TooStale as error:
            world.verdict.liveness(
                "bounded reads are served on a healthy network", f"{name}: {error.message}"
            )
        except AtollError as error:
            world.note_error(error)
