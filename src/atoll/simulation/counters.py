"""Counters and inventories: what is shown is the sum of what happened, and stock is never below zero."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from atoll.region.reading import Reading
from atoll.region.region import Region
from atoll.simulation.failures import LivenessViolation
from atoll.simulation.world import Client, World

_KEYS = ("c0", "c1")


class Counters:
    """Increments of any region add up, each once."""

    name = "counters"
    collection, field = "view", "seen"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        await self.prepare(world)
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def prepare(self, world: World) -> None:
        """Nothing: a counter begins with its first increment."""

    async def finish(self, world: World) -> None:
        for key in _KEYS:
            for name in world.names:
                reading = await world.ask(name, self._reader(key))
                self.check(world, key, reading)

    def amount(self, client: Client) -> int:
        return client.random.choice((-2, -1, 1, 1, 2, 5))

    def check(self, world: World, key: str, reading: Reading) -> None:
        """The value is the sum of all that the region has seen."""
        expected = sum(
            operation.note[1]
            for operation in world.committed(f"{self.name}-", reading.vector)
            if operation.note[0] == key
        )
        shown = 0 if reading.value is None else msgspec.json.decode(reading.value)[self.field]
        if shown != expected:
            world.verdict.safety(
                "a counter is the sum of its increments",
                f"{reading.region} shows {shown} for {self.collection}/{key}, its history says {expected}",
            )

    async def _act(self, world: World, client: Client) -> None:
        while not world.stopped:
            await client.pause(self._mean_s)
            if client.random.random() < 0.2:
                client.move()
            key = client.random.choice(_KEYS)
            if client.random.random() < 0.3:
                reading = await client.read(self.collection, key, consistency="causal")
                if reading is not None:
                    self.check(world, key, reading)
                continue
            amount = self.amount(client)
            await client.patch(self.collection, key, {"$inc": {self.field: amount}}, note=(key, amount))

    def _reader(self, key: str) -> Callable[[Region], Awaitable[Reading]]:
        async def read(region: Region) -> Reading:
            return await region.reader.read_here(self.collection, key)

        return read


class Inventory(Counters):
    """Bounded counters: never below zero in any region, and rights move to where they are wanted."""

    name = "inventory"
    collection, field = "stock", "left"

    async def prepare(self, world: World) -> None:
        client = world.client("inventory-stocker")
        for key in _KEYS:
            await client.patch(self.collection, key, {"$inc": {self.field: 20}}, note=(key, 20), attempts=30)

    def amount(self, client: Client) -> int:
        return client.random.choice((-3, -2, -1, -1, -1, -1, 1, 6))

    def check(self, world: World, key: str, reading: Reading) -> None:
        super().check(world, key, reading)
        if reading.value is not None and msgspec.json.decode(reading.value)[self.field] < 0:
            world.verdict.safety(
                "a bounded counter stays above its bound", f"{reading.region} shows {reading.value!r}"
            )

    async def finish(self, world: World) -> None:
        await super().finish(world)
        client = world.client("inventory-last")
        for key in _KEYS:
            left = await self._left(world, client, key)
            for _ in range(4):  # from far away they come a few at a time
                sold = await client.patch(
                    self.collection, key, {"$inc": {self.field: -left}}, note=(key, -left)
                )
                if left == 0 or sold.state == "acked":
                    break
            else:
                message = f"{left} of {key} are left in all regions and {client.region} could not sell them"
                world.verdict.fail(LivenessViolation("rights can be gathered in one region", message))

    async def _left(self, world: World, client: Client, key: str) -> int:
        reading = await world.ask(client.region, self._reader(key))
        return 0 if reading.value is None else int(msgspec.json.decode(reading.value)[self.field])
