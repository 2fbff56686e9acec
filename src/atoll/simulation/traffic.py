"""Any declared collection: puts, patches, deletions and reads of a few keys, so that they collide."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.errors import RequestError
from atoll.simulation.values import Generator
from atoll.simulation.world import Client, World

_KEYS = ("k0", "k1", "k2")


class Traffic:
    """The oracle knows what must be shown and recorded; so nothing is checked here but single reads."""

    name = "traffic"

    def __init__(self, collections: Sequence[str], clients: int, mean_s: float) -> None:
        self._collections = tuple(collections)
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        clients = [world.client(f"traffic-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def finish(self, world: World) -> None:
        """One more collision of an update with a deletion in each collection; the audit is checked after it."""
        random = world.cluster.split("traffic finish")
        for name in self._collections:
            generator = Generator(world.rules[name], random, world.names)
            one, other = (world.client(f"traffic-finish-{name}-{side}") for side in "ab")
            one.region, other.region = random.sample(world.names, 2)
            with contextlib.suppress(RequestError):
                mutations = [self._mutation(world, generator, name, "k0", chance) for chance in (0.9, 0.3)]
                await one.write(mutations[0])
                await asyncio.sleep(2.0)
                await asyncio.gather(one.write(mutations[1]), other.write(Delete(name, "k0")))

    async def _act(self, world: World, client: Client) -> None:
        random = client.random
        generators = {name: Generator(world.rules[name], random, world.names) for name in self._collections}
        while not world.stopped:
            await client.pause(self._mean_s)
            if random.random() < 0.3:
                client.move()
            collection, key = random.choice(self._collections), random.choice(_KEYS)
            if random.random() < 0.3:
                await client.read(collection, key)
                continue
            try:
                mutation = self._mutation(world, generators[collection], collection, key, random.random())
            except RequestError:
                continue  # the declaration wants more than its JSON schema says
            await client.write(mutation, session=random.random() < 0.5)

    @staticmethod
    def _mutation(world: World, generator: Generator, collection: str, key: str, chance: float) -> Mutation:
        rules = world.rules[collection]
        if chance < 0.15:
            return Delete(collection, key)
        if chance < 0.5:
            return patch_of(rules, key, generator.operators(key))
        return put_of(rules, key, msgspec.json.encode(generator.document(key)))
