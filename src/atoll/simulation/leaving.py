"""A region leaves for good: what it could have sold is sold by others, once; and it may come back."""

from __future__ import annotations

import asyncio

from atoll.causality import vector as vectors
from atoll.causality.origin import of_region
from atoll.simulation.mergeable import Inventory
from atoll.simulation.world import Client, World
from atoll.testing.cluster import Cluster
from atoll.testing.leaving import join, leave

SOLD_ONCE = "rights of a region that has left are sold once"
INHERITED = "rights of a region that has left can be sold"
_STOCKED = 60
_WITHIN_S = 150.0
_SETTLED_S = 10.0
"""By then a region that came back has heard all others."""


class Leaving(Inventory):
    """Once all is healed, a region is taken out. Its last sales are known to one other region, which is cut off."""

    name = "leaving"
    keys = ("l0", "l1")
    stocked = _STOCKED
    amounts = (-3, -2, -1, -1, -1, 1)

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._sellers = 0

    async def rest(self, world: World) -> None:
        random = world.cluster.split("leaving")
        if len(world.names) < 3:
            return
        gone, knows, *others = random.sample(world.names, len(world.names))
        await self._ready(world, gone)
        world.cluster.partition([gone, knows])
        client = world.client("leaving-sales")
        client.region = gone
        for _ in range(6):
            await self._sell(client, random.choice(self.keys), random.randint(1, 4))
        await self._becomes_known(world, gone, knows)
        world.cluster.partition([gone], [knows])
        await leave(world.cluster, gone)
        del world.journal.vectors[gone]  # nobody keeps anything for it
        await self._sell_out(world, others)
        world.cluster.heal()
        await self._inherited(world, gone)
        if random.random() < 0.5:
            await self._sell_out(world, world.names)
        if random.random() < 0.5:
            await join(world.cluster, gone)
            await world.cluster.settle(_WITHIN_S)
            await asyncio.sleep(_SETTLED_S)
            world.cluster.partition([gone])
            await self._sell_out(world, world.names)
            world.cluster.heal()

    async def finish(self, world: World) -> None:
        await super().finish(world)
        for key in self.keys:
            left = sum(each.note[1] for each in world.committed(f"{self.name}-") if each.note[0] == key)
            if left < 0:
                world.verdict.safety(SOLD_ONCE, f"{-left} more than there were of {key}")

    async def _sell_out(self, world: World, regions: list[str] | tuple[str, ...]) -> None:
        """Each region sells until it has no more."""
        for region in regions:
            self._sellers += 1
            client = world.client(f"leaving-seller-{self._sellers}")
            client.region = region
            for key in self.keys:
                for amount in (5, 1):
                    while await self._sell(client, key, amount):
                        pass

    async def _sell(self, client: Client, key: str, amount: int) -> bool:
        return (await self._add(client, key, -amount, session=False, attempts=1)).state == "acked"

    async def _ready(self, world: World, gone: str) -> None:
        """A region is taken out once all regions agree and vote, and it has nothing left to be decided."""
        cluster = world.cluster
        deadline_s = cluster.loop.time() + _WITHIN_S
        while not all(votes(cluster, name) for name in cluster.nodes) or _undecided(cluster, gone):
            if cluster.loop.time() > deadline_s:
                return  # whoever waits for that says so
            await asyncio.sleep(0.1)
        await cluster.settle(_WITHIN_S)

    async def _becomes_known(self, world: World, gone: str, knows: str) -> None:
        """A region is taken out once what it wrote is elsewhere."""
        cluster = world.cluster
        written = of_region(cluster[gone].disk.store.positions(), gone)

        def unknown(_: World) -> list[str]:
            known = vectors.descends(cluster[knows].disk.store.positions(), written)
            return [] if known else [f"{knows} does not get what {gone} wrote last"]

        await self.until_none(world, unknown, INHERITED, _WITHIN_S)

    async def _inherited(self, world: World, gone: str) -> None:
        cluster = world.cluster

        def unaware(_: World) -> list[str]:
            waiting = (name for name in cluster.nodes if gone not in cluster.region(name).ended())
            return [f"{name} does not know that {gone}, which has left, has ended" for name in waiting]

        await self.until_none(world, unaware, INHERITED, _WITHIN_S)


def votes(cluster: Cluster, node: str) -> bool:
    """Whether a node counts the members of the deployment, and is one of them."""
    registers = cluster.region(node).status().registers
    return registers is not None and registers.voting and {*registers.acceptors} == {*cluster.members}


def _undecided(cluster: Cluster, region: str) -> int:
    registers = cluster.region(region).status().registers
    return 0 if registers is None else registers.undecided
