"""A rollout: regions restart with other versions of their declarations while all of them write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.rules import WHOLE, Rules
from atoll.region.region import Region
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Client, World

_KEYS = ("v0", "v1")
LOSES_NO_FIELD = "old and new declarations lose no field"


class Versions:
    """Each client writes what the region that it talks to knows; the history is shown by the newest version.

    An older region carries what it does not know, so at the end the ordinary checks hold for every field. Beyond
    them: whoever writes a whole document leaves alone what its version does not know.
    """

    name = "versions"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s
        self._known: dict[bytes, frozenset[str]] = {}
        """trace → the fields that the writer's declarations knew."""

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients + 1)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

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

    async def _act(self, world: World, client: Client) -> None:
        count = 0
        while not world.stopped:
            await client.pause(self._mean_s)
            if client.random.random() < 0.4:
                client.move()
            key, chance = client.random.choice(_KEYS), client.random.random()
            if chance < 0.2:
                await self._read(world, client, key)
                continue
            count += 1
            word = f"{client.name[9:]}.{count}"
            await client.write_here(
                self._by_what_is_known(f"{client.name}/{client.count + 1}", key, word, chance)
            )

    def _by_what_is_known(
        self, trace: str, key: str, word: str, chance: float
    ) -> Callable[[Region], Sequence[Mutation]]:
        def build(region: Region) -> Sequence[Mutation]:
            self._known[trace_of(trace)] = region.rules["person"].known
            return _mutations(region.rules, key, word, chance)

        return build

    async def _read(self, world: World, client: Client, key: str) -> None:
        nodes = world.cluster.of(client.region)
        known = [
            name
            for name in ("person", "board", "memo")
            if all(name in node.application.collections for node in nodes)
        ]
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
