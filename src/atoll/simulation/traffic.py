"""Any declared collection: puts, patches, deletions and reads of a few keys, so that they collide."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.errors import RequestError
from atoll.simulation.values import Generator
from atoll.simulation.world import Client, Workload, World

_KEYS = ("k0", "k1", "k2")
BUILT_IN = ("profile", "claim", "page", "draft", "cart", "setting")


class Traffic(Workload):
    """The oracle knows what must be shown and recorded; so nothing is checked here but single reads."""

    name = "traffic"

    moves = 0.3

    def __init__(self, clients: int, mean_s: float, collections: Sequence[str] = BUILT_IN) -> None:
        super().__init__(clients, mean_s)
        self._collections = tuple(collections)
        self._generators: dict[tuple[str, str], Generator] = {}

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

    async def step(self, world: World, client: Client, count: int) -> None:
        random = client.random
        collection, key = random.choice(self._collections), random.choice(_KEYS)
        if random.random() < 0.3:
            await client.read(collection, key)
            return
        generator = self._generators.get((client.name, collection))
        if generator is None:
            generator = Generator(world.rules[collection], random, world.names)
            self._generators[client.name, collection] = generator
        try:
            mutation = self._mutation(world, generator, collection, key, random.random())
        except RequestError:
            return  # the declaration wants more than its JSON schema says
        await client.write(mutation, session=random.random() < 0.5)

    @staticmethod
    def _mutation(world: World, generator: Generator, collection: str, key: str, chance: float) -> Mutation:
        rules = world.rules[collection]
        if chance < 0.15:
            return Delete(collection, key)
        if chance < 0.5:
            return patch_of(rules, key, generator.operators(key))
        return put_of(rules, key, msgspec.json.encode(generator.document(key)))
