"""Unique fields.

Of strong documents no two ever have one value, and what is freed can be taken. Duplicates of asynchronous documents are
settled once regions hear of each other again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Any

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import region_of
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.strategies import MULTIPLE_UNIQUE
from atoll.errors import AtollError
from atoll.simulation.world import Client, Workload, World
from atoll.store.port import AuditFilter

KEYS = ("u0", "u1", "u2", "u3", "u4")
VALUES = ("v0", "v1", "v2", "v3")
FIELDS = ("number", "mail")

HELD_ONCE = "two documents never have one unique value"
FREED = "a unique value that no document has can be taken"
_SETTLES_S = 60.0
SETTLED = "duplicates are cleared, or wait for a person"


class Unique(Workload):
    """Clients take, hand over and free a few values."""

    name = "unique"
    moves = 0.4

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients + 2, mean_s / 2)

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.3:
            self._check_once(world, await self._snapshot(world, client))
            return
        keys = client.random.sample(KEYS, client.random.choice((1, 1, 1, 2)))
        await client.write(*(self._change(world, client.random, key) for key in keys), session=False)

    @staticmethod
    def _change(world: World, random: Random, key: str) -> Mutation:
        rules, chance = world.rules["badge"], random.random()
        if chance < 0.15:
            return Delete("badge", key)
        if chance < 0.25:
            return patch_of(rules, key, {"$set": {"note": str(random.random())}})
        if chance < 0.55:
            name = random.choice(FIELDS)
            return patch_of(rules, key, {"$set": {name: random.choice(VALUES)}})
        if chance < 0.65:
            return patch_of(rules, key, {"$unset": [random.choice(FIELDS)]})
        fields = {name: random.choice((None, *VALUES)) for name in FIELDS}
        return put_of(rules, key, msgspec.json.encode(fields))

    async def _snapshot(self, world: World, client: Client) -> dict[str, dict[str, Any]] | None:
        """Key → document."""
        try:
            found, vector = await client.ask(lambda region: region.snapshot([("badge", key) for key in KEYS]))
        except AtollError as error:
            world.note_error(error)
            return None
        client.token = vectors.merge(client.token, vector)
        return {each.key: msgspec.json.decode(each.value) for each in found if each.value is not None}

    @staticmethod
    def _check_once(world: World, found: dict[str, dict[str, Any]] | None) -> None:
        for name in FIELDS:
            holders: dict[str, str] = {}
            for key, document in (found or {}).items():
                if (value := document.get(name)) is None:
                    continue
                if value in holders:
                    world.verdict.safety(HELD_ONCE, f"{name}: {holders[value]} and {key} have {value}")
                holders[value] = key

    async def finish(self, world: World) -> None:
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if len(lost) > 1:
            return  # a majority of copies may have gone at once, and with it what was decided
        client = world.client("unique-finish")
        found = await self._snapshot(world, client)
        self._check_once(world, found)
        for name in FIELDS:
            held = {document.get(name) for document in (found or {}).values()}
            for value in VALUES:
                if found is not None and value not in held:
                    body = msgspec.json.encode({name: value})
                    key = f"{name}-{value}"
                    refused = world.errors["UniqueViolation"]
                    await client.write(put_of(world.rules["badge"], key, body))
                    if world.errors["UniqueViolation"] > refused:
                        world.verdict.safety(FREED, f"{name}={value} is refused to {key}")
        for region in world.names:
            self._check_region(world, region)

    def _check_region(self, world: World, name: str) -> None:
        rows = world.cluster[name].disk.store.scan_all("badge", limit=1000)
        shown = {key: msgspec.json.decode(row.value) for key, row in rows if row.value is not None}
        self._check_once(world, shown)


class Duplicates(Workload):
    """Clients of all regions give the same few values to documents."""

    name = "duplicates"

    async def step(self, world: World, client: Client, count: int) -> None:
        random = client.random
        collection, key = random.choice(("seat", "desk")), random.choice(KEYS)
        chance = random.random()
        if chance < 0.2:
            await client.read(collection, key)
        elif chance < 0.3:
            await client.write(Delete(collection, key))
        elif chance < 0.5:
            await client.patch(collection, key, {"$set": {"guest": client.name}})
        elif chance < 0.7:
            await client.patch(collection, key, {"$set": {"number": random.choice((1, 2, 3))}})
        else:
            await client.put(collection, key, {"number": random.choice((1, 2, 3)), "guest": client.name})

    async def finish(self, world: World) -> None:
        await self.until_none(world, self._unsettled, SETTLED, _SETTLES_S)

    @staticmethod
    def _unsettled(world: World) -> Iterator[str]:
        """Which documents of a region have one value, and no record says so."""
        for name, collection in product(world.names, ("seat", "desk")):
            store = world.cluster[name].disk.store
            wanted = AuditFilter(collection, kind=MULTIPLE_UNIQUE, status="manual")
            waiting = {row.key for row in store.conflicts(wanted, limit=1000)}
            holders: defaultdict[int, set[str]] = defaultdict(set)
            for key, row in store.scan_all(collection, limit=1000):
                number = None if row.value is None else msgspec.json.decode(row.value)["number"]
                if number is not None:
                    holders[number].add(key)
            for number, keys in holders.items():
                if len(keys - waiting) > 1:
                    yield f"{name}: {collection} {sorted(keys)} have {number}, and {sorted(waiting)} wait"
