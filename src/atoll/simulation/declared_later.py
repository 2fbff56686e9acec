"""A field that becomes unique while regions write: some of them by the former declaration.

Once all regions have the new one, claims are built. Then no two documents have one value, but for those that wait for a
person. A value that no document has can be taken. Another field becomes a reference: see `counted_later`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from atoll.causality.origin import region_of
from atoll.consensus.claims import holder_of
from atoll.documents.mutation import Delete, patch_of, put_of
from atoll.documents.strategies import MULTIPLE_UNIQUE
from atoll.documents.unique import Value, place_of
from atoll.schema.system import CLAIMS
from atoll.simulation.application import DECLARED_LATER
from atoll.simulation.counted_later import COUNTED, CountedLater
from atoll.simulation.world import Client, Workload, World
from atoll.store.port import AuditFilter

KEYS = tuple(f"d{number}" for number in range(8))
VALUES = ("v0", "v1", "v2", "v3")
_BUILT_S = 180.0

BUILT = "what a field needs is built once all regions know its declaration"
CLAIMED = "each value has the claim of one document, and the others wait for a person"
FREE = "after a build, a value that no document has can be taken"


class DeclaredLater(Workload):
    """Clients give a few values to documents, by whatever declaration their region has."""

    name = DECLARED_LATER

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(2 * clients, mean_s)
        self._references = CountedLater()

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.5:
            await self._references.step(world, client, count)
            return
        random, rules = client.random, world.rules["pass"]
        key, chance = random.choice(KEYS), random.random()
        if chance < 0.2:
            await client.write(Delete("pass", key), session=False)
        elif chance < 0.3:
            await client.write(patch_of(rules, key, {"$set": {"note": client.name}}), session=False)
        else:
            body = msgspec.json.encode({"number": random.choice((None, *VALUES))})
            await client.write(put_of(rules, key, body), session=False)

    async def rest(self, world: World) -> None:
        if not _is_lost(world):
            await self.until_none(world, self._unbuilt, BUILT, _BUILT_S)

    async def finish(self, world: World) -> None:
        if _is_lost(world):
            return
        await self.until_none(world, self._unbuilt, BUILT, _BUILT_S)
        await self.until_none(world, self._unclaimed, CLAIMED, _BUILT_S)
        await self.until_none(world, self._references.uncounted, COUNTED, _BUILT_S)
        client = world.client(f"{self.name}-finish")
        region = world.names[0]
        held = {value for _, value in self._shown(world, region)}
        for value in VALUES:
            if value not in held:
                refused = world.errors["UniqueViolation"]
                body = msgspec.json.encode({"number": value})
                await client.write(put_of(world.rules["pass"], f"free-{value}", body))
                if world.errors["UniqueViolation"] > refused:
                    world.verdict.safety(FREE, f"{value} is refused")
        await self._references.finish(world, client)

    @staticmethod
    def _unbuilt(world: World) -> Iterator[str]:
        for node in world.cluster.keepers:
            region = world.cluster.region(node.name)
            for report in region.status().builds:
                if report.state != "whole":
                    yield f"{node.name}: {report}"

    @staticmethod
    def _shown(world: World, region: str) -> list[tuple[str, str]]:
        """Key and value of all documents."""
        rows = world.cluster[region].disk.store.scan_all("pass", limit=1000)
        found = [(key, msgspec.json.decode(row.value)) for key, row in rows if row.value is not None]
        return [(key, shown["number"]) for key, shown in found if shown.get("number") is not None]

    def _unclaimed(self, world: World) -> Iterator[str]:
        for region in world.names:
            store = world.cluster[region].disk.store
            wanted = AuditFilter("pass", kind=MULTIPLE_UNIQUE, status="manual")
            waiting = {row.key for row in store.conflicts(wanted, limit=1000)}
            shown = self._shown(world, region)
            holders = dict.fromkeys((value for _, value in shown), "")
            for value in holders:
                place = place_of("pass", Value("number", msgspec.json.encode(value)))
                row = store.get(CLAIMS, place)
                holders[value] = holder_of(None if row is None else row.value) or ""
            for key, value in shown:
                if (key == holders[value]) == (key in waiting):
                    yield f"{region}: {key} has {value}, {holders[value]} the claim, {sorted(waiting)} wait"


def _is_lost(world: World) -> bool:
    """Whether a majority of copies may have gone at once, and with it what was decided."""
    lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
    return len(lost) > 1
