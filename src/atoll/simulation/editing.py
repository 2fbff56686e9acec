"""Sets, lists and texts: what was added and not removed by someone who had seen it is there, once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from atoll.region.reading import Reading
from atoll.simulation.world import Client, Operation, World


class Sets:
    """An addition stays unless a removal had seen it."""

    name = "sets"
    key = "shared"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def finish(self, world: World) -> None:
        for name in world.names:
            row = world.cluster[name].disk.store.get("basket", self.key)
            vector = world.cluster[name].disk.store.positions()
            self._check(world, Reading(None if row is None else row.value, "", name, vector))

    async def _act(self, world: World, client: Client) -> None:
        while not world.stopped:
            await client.pause(self._mean_s)
            if client.random.random() < 0.2:
                client.move()
            element = client.random.choice("abcdef")
            match client.random.choice(("add", "add", "remove", "read")):
                case "read":
                    reading = await client.read("basket", self.key, consistency="causal")
                    if reading is not None:
                        self._check(world, reading)
                case verb:
                    await client.patch(
                        "basket", self.key, {f"${verb}": {"items": [element]}}, note=(verb, element)
                    )

    def _check(self, world: World, reading: Reading) -> None:
        done = list(world.committed("sets-", reading.vector))
        expected = sorted(
            {each.note[1] for each in done if each.note[0] == "add" and _stays(world, each, done)}
        )
        shown = [] if reading.value is None else msgspec.json.decode(reading.value)["items"]
        if shown != expected:
            world.verdict.safety(
                "an addition stays unless a removal had seen it",
                f"{reading.region} shows {shown} in {self.key}, its history says {expected}",
            )


def _stays(world: World, added: Operation, done: list[Operation]) -> bool:
    """Whether no removal of the element has seen this addition."""
    return not any(each.note == ("remove", added.note[1]) and _saw(world, each, added) for each in done)


def _saw(world: World, later: Operation, earlier: Operation) -> bool:
    origin, seq = world.journal.dots(earlier.trace)[0]
    context: Mapping[str, int] = world.journal.entries[world.journal.dots(later.trace)[0]].context
    return context.get(origin, 0) >= seq


class Texts:
    """Insertions into a text and a list all stay, each in one piece."""

    name = "texts"
    key = "shared"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def finish(self, world: World) -> None:
        for name in world.names:
            row = world.cluster[name].disk.store.get("note", self.key)
            vector = world.cluster[name].disk.store.positions()
            self._check(world, Reading(None if row is None else row.value, "", name, vector))

    async def _act(self, world: World, client: Client) -> None:
        count = 0
        while not world.stopped:
            await client.pause(self._mean_s)
            if client.random.random() < 0.2:
                client.move()
            count += 1
            word = f"[{client.name[6:]}.{count}]"
            patch: dict[str, Any]
            match client.random.choice(("append", "front", "line", "unline", "read")):
                case "append":
                    patch = {"$append": {"body": word}}
                case "front":
                    patch = {"$splice": {"body": {"at": 0, "remove": 0, "insert": word}}}
                case "line":
                    patch = {"$add": {"lines": [word]}}
                case "unline":
                    word = f"[{client.name[6:]}.{client.random.randint(1, count)}]"
                    patch = {"$remove": {"lines": [word]}}
                case _:
                    reading = await client.read("note", self.key)
                    if reading is not None:
                        self._check(world, reading)
                    continue
            await client.patch("note", self.key, patch, note=(next(iter(patch)), word))

    def _check(self, world: World, reading: Reading) -> None:
        done = [each.note for each in world.committed("texts-", reading.vector)]
        shown = {"body": "", "lines": []} if reading.value is None else msgspec.json.decode(reading.value)
        words = [word for operator, word in done if operator in ("$append", "$splice")]
        removed = {word for operator, word in done if operator == "$remove"}
        lines = sorted(word for operator, word in done if operator == "$add" and word not in removed)
        broken = [word for word in words if shown["body"].count(word) != 1]
        if broken or len(shown["body"]) != sum(map(len, words)):
            world.verdict.safety(
                "every edit of a text stays, in one piece",
                f"{reading.region} shows {shown['body']!r}; not once in it: {broken}",
            )
        if sorted(shown["lines"]) != lines:
            world.verdict.safety(
                "every line added and not removed stays",
                f"{reading.region} shows {shown['lines']}, its history says {lines}",
            )
