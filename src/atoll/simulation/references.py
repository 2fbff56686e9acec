"""References between documents.

Regions refer to documents, and delete them, at once. Once regions hear of each other again, nothing refers to what is
gone, unless its policy lets it dangle.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Any

import msgspec

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.simulation.world import Client, Workload, World

KEYS = tuple(f"r{number}" for number in range(8))
REFERRING = ("pet", "photo", "folder")
"""Collections that refer, and are not decided by a majority."""
_SETTLES_S = 90.0

DANGLES = "nothing refers to what was deleted"


class References(Workload):
    """Clients of all regions refer to a few documents, and delete them."""

    name = "references"

    async def step(self, world: World, client: Client, count: int) -> None:
        random = client.random
        if random.random() < 0.1:
            await client.read(random.choice(REFERRING), random.choice(KEYS))
            return
        await client.write(*(self._change(world, random) for _ in range(random.choice((1, 1, 1, 2)))))

    @staticmethod
    def _change(world: World, random: Random) -> Mutation:
        collection, key, to = random.choice(("owner", *REFERRING)), random.choice(KEYS), random.choice(KEYS)
        rules = world.rules[collection]
        if random.random() < 0.35:
            return Delete(collection, key)
        made: dict[str, dict[str, Any]] = {
            "owner": {"name": str(random.random())},
            "pet": {"owner": to},
            "photo": {"pet": random.choice((None, to)), "owner": random.choice((None, to))},
            "folder": {"parent": random.choice((None, to)), "name": str(random.random())},
        }
        fields = made[collection]
        if random.random() < 0.3:
            return patch_of(rules, key, {"$set": fields})
        return put_of(rules, key, msgspec.json.encode(fields))

    async def finish(self, world: World) -> None:
        if any(loss.kept < loss.newest for loss in world.journal.losses.values()):
            return  # what was deleted may have gone with what said so
        await self.until_none(world, self._dangling, DANGLES, _SETTLES_S)

    @staticmethod
    def _dangling(world: World) -> Iterator[str]:
        """What refers to what is not there."""
        for name, collection in product(world.names, REFERRING):
            store = world.cluster[name].disk.store
            references = world.rules[collection].schema.references
            for key, row in store.scan_all(collection, limit=1000):
                fields = {} if row.value is None else msgspec.json.decode(row.value)
                for field, target, on_delete in references:
                    if (to := fields.get(field)) is not None and on_delete != "dangling":
                        found = store.get(target, to)
                        if found is None or found.value is None:
                            yield f"{name}: {collection}/{key} refers by {field} to {target}/{to}"
