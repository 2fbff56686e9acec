"""Somebody who asks a region for documents from the moment on in which it is back from a backup."""

from __future__ import annotations

import asyncio

from atoll.simulation.world import World

_EVERY_S = 0.1


class Returning:
    """Joins each run with a restore. Clients of other workloads wait for their writes just then."""

    name = "returning"

    async def run(self, world: World) -> None:
        client = world.client(self.name)
        while not world.stopped:
            await asyncio.sleep(_EVERY_S)
            for region in sorted(world.journal.withheld):
                client.region = region
                await client.read("profile", "k0", consistency="eventual")

    async def finish(self, world: World) -> None:
        """Each read was checked when it was answered."""
