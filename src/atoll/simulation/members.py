"""Regions leave, come back, and are replaced while strong documents are written: nothing decided is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from atoll.simulation.leaving import votes
from atoll.simulation.placements import Orders
from atoll.simulation.world import Client, World
from atoll.testing.leaving import join, leave

FOLLOWED = "the regions that decide follow the members"
_CLIENTS = 2
_LAST = 99
"""The number of the client that writes and reads every document."""
_WITHIN_S = 150.0


class Members(Orders):
    """Once all is healed, members change one after the other, under load and with faults of one region at a time."""

    name = "members"
    accounts = tuple(f"m{number}" for number in range(12))

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._begun = clients
        self._last: Client
        self._count = 0

    async def step(self, world: World, client: Client, count: int) -> None:
        await self.account(world, client, count)

    async def rest(self, world: World) -> None:
        random = world.cluster.split("members")
        self._last = world.client(f"{self.name}-{_LAST}")
        if len(world.names) >= 3:
            for _ in range(random.randint(1, 3)):
                await self._replace(world, random)
        await super().rest(world)

    async def _replace(self, world: World, random: Random) -> None:
        """A region is taken out once what it wrote is elsewhere. It comes back with an empty disk."""
        cluster = world.cluster
        await self._followed(world)
        gone, lacking, *_ = random.sample(world.names, len(world.names))
        await self._each_without(world, lacking, self._set_next)
        await self._followed(world)
        await cluster.settle(_WITHIN_S)
        at_once = random.random() < 0.3  # in one step: others hear that it left and came back

        async def change() -> None:
            await leave(cluster, gone)
            world.journal.vectors.pop(gone, None)  # nobody keeps anything for it
            if not at_once:
                await self._harm(world, random)
                await self._followed(world)
            await join(cluster, gone)
            await self._harm(world, random)
            await self._followed(world)

        await self._under_load(world, change)
        cluster.heal()
        await cluster.settle(_WITHIN_S)
        for name in world.names:
            await self._each_without(world, name, self.look)

    async def _each_without(
        self, world: World, name: str, act: Callable[[World, Client, str], Awaitable[None]]
    ) -> None:
        """Write or read every document while one region is cut off: the others alone decide, or tell."""
        world.cluster.partition([name])
        self._last.region = next(each for each in world.names if each != name)
        for key in self.accounts:
            await act(world, self._last, key)
        world.cluster.heal()

    async def _set_next(self, world: World, client: Client, key: str) -> None:
        self._count += 1
        await self.set(world, client, key, self._count)

    async def _under_load(self, world: World, change: Callable[[], Awaitable[None]]) -> None:
        calm = asyncio.Event()
        first, self._begun = self._begun, self._begun + _CLIENTS

        async def busy(number: int) -> None:
            client, count = world.client(f"{self.name}-{number}"), 0
            while not calm.is_set():
                await client.pause(self.mean_s)
                client.move()
                count += 1
                await self.account(world, client, count)

        clients = [asyncio.ensure_future(busy(number)) for number in range(first, self._begun)]
        try:
            await change()
        finally:
            calm.set()
            await asyncio.gather(*clients)

    async def _harm(self, world: World, random: Random) -> None:
        """One region at a time is killed, or cut off, for some seconds."""
        cluster = world.cluster
        for _ in range(random.randint(0, 2)):
            name = random.choice(world.names)
            if random.random() < 0.5:
                cluster.kill(name)
            else:
                cluster.partition([name])
            await asyncio.sleep(random.uniform(0.1, 4.0))
            cluster.heal()

    async def _followed(self, world: World) -> None:
        def behind(_: World) -> list[str]:
            return [f"{name} counts others" for name in world.cluster.nodes if not votes(world.cluster, name)]

        await self.until_none(world, behind, FOLLOWED, _WITHIN_S)
