"""A rollout: regions restart with other versions of their declarations while all of them write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.rules import WHOLE, Rules
from atoll.region.region import Region
from atoll.simulation.application import VERSIONED
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Client, Workload, World

_KEYS = ("v0", "v1")
LOSES_NO_FIELD = "old and new declarations lose no field"


class Versions(Workload):
    """Each client writes what the region that it talks to knows; the history is shown by the newest version.

    An older region carries what it does not know, so at the end the ordinary checks hold for every field. Beyond
    them: whoever writes a whole document leaves alone what its version does not know.
    """

    name = "versions"
    moves = 0.4

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients + 1, mean_s)
        self._known: dict[bytes, frozenset[str]] = {}
        """trace → the fields that the writer's declarations knew."""

    async def finish(self, world: World) -> None:
        for key in _KEYS:
            for touch in world.journal.touches("person", key):
                entry = touch.entry
                value = touch.change.registers.get(WHOLE)
                known = self._known.get(entry.trace or b"")
                if value is None or known is None:
                    continue
                before = world.oracle.visible_plain("person", key, entry.context)
                after = msgspec.json.decode(value)
                lost = {
                    name: held
                    for name, held in (before or {}).items()
                    if name not in known and after.get(name) != held
                }
                if lost:
                    world.verdict.safety(
                        LOSES_NO_FIELD,
                        f"{entry.origin}:{entry.seq} knew {sorted(known)} of person/{key} and wiped out {lost}",
                    )

    async def step(self, world: World, client: Client, count: int) -> None:
        key, chance = client.random.choice(_KEYS), client.random.random()
        if chance < 0.2:
            await self._read(world, client, key)
            return
        number = client.count + 1

        def build(region: Region) -> Sequence[Mutation]:
            self._known[trace_of(f"{client.name}/{number}")] = region.rules["person"].known
            return _mutations(region.rules, key, f"{client.name[9:]}.{number}", chance)

        await client.write_here(build)

    async def _read(self, world: World, client: Client, key: str) -> None:
        applications = [node.application.collections for node in world.cluster.of(client.region)]
        known = [name for name in VERSIONED if all(name in declared for declared in applications)]
        await client.read(client.random.choice(known), key)


def _mutations(rules: Mapping[str, Rules], key: str, word: str, chance: float) -> list[Mutation]:
    """What a client of this version of the declarations may ask for."""
    person, board = rules["person"], rules["board"]
    patch: dict[str, Any]
    if chance < 0.4:
        text = {"name": word, "nick": word, "tier": 7 if "nick" not in person.known else word}
        document = {name: value for name, value in text.items() if name in person.plain}
        return [put_of(person, key, msgspec.json.encode(document))]
    if chance < 0.5:
        patch = {"$inc": {"visits": 1}} if "visits" in person.lattices else {"$set": {"nick": word}}
        return [patch_of(person, key, {"$set": {"name": word}, **patch})]
    if chance < 0.55:
        return [Delete("person", key)]
    if chance < 0.8:
        patch = {"$set": {"title": word}, "$inc": {"stars": 1}}
        if "tags" in board.lattices:
            patch = {"$set": {"colour": word, f"labels.{word[:1]}": 1}, "$add": {"tags": [word]}}
        return [patch_of(board, key, patch)]
    if chance < 0.88:
        return [put_of(board, key, msgspec.json.encode({"title": word, "stars": 3}))]
    if "memo" in rules:
        return [patch_of(rules["memo"], key, {"$append": {"body": word}})]
    return [patch_of(board, key, {"$inc": {"stars": 1}})]
