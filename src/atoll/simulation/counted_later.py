"""A field that becomes a reference while regions write: some of them by the former declaration.

Once all regions have the new one, references are counted. Then each count is the number of documents that refer, and
those that refer to nothing wait for a person. A region that knows the declaration deletes nothing before that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from atoll.commit.identity import Address
from atoll.consensus.references import counts_of
from atoll.documents.mutation import Delete, patch_of, put_of
from atoll.documents.references import kept_at
from atoll.documents.strategies import DELETE_REFERENCED
from atoll.errors import AtollError
from atoll.schema.system import REFERRED
from atoll.simulation.world import Client, World
from atoll.store.port import AuditFilter

ROOMS = tuple(f"r{number}" for number in range(8))
RARE = tuple(f"r{number}" for number in range(8, 16))
"""Rooms that are written at first, and rarely later."""
TENANTS = ("t0", "t1", "t2")

COUNTED = "references are counted, and those to nothing wait for a person"
KEPT = "nothing is deleted before the references to it are counted"
UNKEPT = "after a build, what nothing refers to can be deleted"


class CountedLater:
    """What clients of `DeclaredLater` do with rooms, which come to refer to tenants."""

    def __init__(self) -> None:
        self._knew: set[str] = set()
        """Nodes that have had the new declaration."""
        self._sure = True
        """Whether nothing has been written by the former declaration after the new one."""

    async def step(self, world: World, client: Client, count: int) -> None:
        random, rules = client.random, world.rules
        key = random.choice(RARE if count < 5 or random.random() < 0.1 else ROOMS)
        tenant, chance = random.choice(TENANTS), random.random()
        self._all_know(world)
        if chance < 0.1:
            await client.write(Delete("room", key), session=False)
        elif chance < 0.2:
            await client.write(patch_of(rules["room"], key, {"$set": {"note": client.name}}), session=False)
        elif chance < 0.4:
            await client.write(put_of(rules["tenant"], tenant, b"{}"), session=False)
        elif chance < 0.55:
            await self._delete(world, client, tenant)
        else:
            await client.write(put_of(rules["room"], key, self._room(random)), session=False)

    @staticmethod
    def _room(random: Random) -> bytes:
        return msgspec.json.encode({"tenant": random.choice((None, *TENANTS))})

    def _all_know(self, world: World) -> bool:
        """Whether all nodes have the new declaration, and none has gone back or lost what it knew."""
        knowing = {each.name for each in world.cluster.keepers if each.application.stored["room"].references}
        lost = any(loss.kept < loss.newest for loss in world.journal.losses.values())
        self._sure = self._sure and self._knew <= knowing and not lost
        self._knew |= knowing
        return self._sure and len(knowing) == len(world.cluster.keepers)

    async def _delete(self, world: World, client: Client, tenant: str) -> None:
        known = self._all_know(world)
        deleted = await client.write(Delete("tenant", tenant), session=False)
        if not known or deleted.state != "acked":
            return
        addresses = [("tenant", tenant), *(("room", key) for key in (*ROOMS, *RARE))]
        try:
            found, _ = await client.ask(lambda region: region.snapshot(addresses))
        except AtollError as error:
            world.note_error(error)
            return
        shown = {(each.collection, each.key): each.value for each in found}
        refer = [key for (name, key), value in shown.items() if name == "room" and _tenant(value) == tenant]
        if shown["tenant", tenant] is None and refer and self._all_know(world):
            world.verdict.safety(KEPT, f"{deleted.trace} deleted {tenant}, and {refer} refer to it")

    # -- afterwards ------------------------------------------------------------------------------------

    def uncounted(self, world: World) -> Iterator[str]:
        """What regions show that is not as it should be once all is built."""
        for region in world.names:
            store = world.cluster[region].disk.store
            rows = store.scan_all("room", limit=1000)
            rooms = {key: to for key, row in rows if (to := _tenant(row.value)) is not None}
            wanted = AuditFilter("room", kind=DELETE_REFERENCED, status="manual")
            waiting = {row.key for row in store.conflicts(wanted, limit=1000)}
            dangling = {key for key, to in rooms.items() if _shown(world, region, ("tenant", to)) is None}
            if dangling != waiting:
                yield f"{region}: {sorted(dangling)} refer to nothing, and {sorted(waiting)} wait"
            true = Counter(rooms.values())
            for tenant in TENANTS:
                told = counts_of(_shown(world, region, (REFERRED, kept_at(("tenant", tenant)))))
                if told.get("room.tenant", 0) != true[tenant]:
                    yield f"{region}: {true[tenant]} rooms refer to {tenant}, and it is said to have {told}"

    async def finish(self, world: World, client: Client) -> None:
        """Once all is as it should be."""
        for key in (*ROOMS, *RARE):
            await client.write(Delete("room", key))
        left = [key for key in (*ROOMS, *RARE) if _shown(world, client.region, ("room", key)) is not None]
        refused = world.errors["ReferenceViolation"]
        for tenant in TENANTS:
            await client.write(Delete("tenant", tenant))
        if not left and world.errors["ReferenceViolation"] > refused:
            world.verdict.safety(UNKEPT, "tenants are kept by rooms that are gone")


def _shown(world: World, region: str, address: Address) -> bytes | None:
    return world.stored(region, *address).value


def _tenant(room: bytes | None) -> Any:
    return None if room is None else msgspec.json.decode(room).get("tenant")
