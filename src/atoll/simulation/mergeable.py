"""Mergeable fields: counters, stocks, sets, lists and texts show what was done to them, each change once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import msgspec

from atoll.causality import vector as vectors
from atoll.region.reading import Reading
from atoll.region.region import Region
from atoll.simulation.world import Client, Operation, Workload, World

_KEYS = ("c0", "c1")


class Counters(Workload):
    """Increments of any region add up, each once."""

    name = "counters"
    moves = 0.2
    collection: ClassVar[str] = "view"
    field: ClassVar[str] = "seen"
    amounts: ClassVar[tuple[int, ...]] = (-2, -1, 1, 1, 2, 5)
    keys: ClassVar[tuple[str, ...]] = _KEYS

    async def finish(self, world: World) -> None:
        for key in self.keys:
            for name in world.names:
                self.check(world, key, await world.ask(name, self._reader(key)))

    def check(self, world: World, key: str, reading: Reading) -> None:
        """The value is the sum of all that the region has seen."""
        expected = sum(
            operation.note[1]
            for operation in world.committed(f"{self.name}-", reading.vector)
            if operation.note[0] == key
        )
        shown = self._shown(reading)
        if shown != expected:
            world.verdict.safety(
                "a counter is the sum of its increments",
                f"{reading.region} shows {shown} for {self.collection}/{key}, its history says {expected}",
            )

    async def step(self, world: World, client: Client, count: int) -> None:
        key = client.random.choice(self.keys)
        if client.random.random() < 0.3:
            reading = await client.read(self.collection, key, consistency="causal")
            if reading is not None:
                self.check(world, key, reading)
        else:
            await self._add(client, key, client.random.choice(self.amounts))

    async def _add(self, client: Client, key: str, amount: int, **options: Any) -> Operation:
        return await client.patch(
            self.collection, key, {"$inc": {self.field: amount}}, note=(key, amount), **options
        )

    def _shown(self, reading: Reading) -> int:
        return 0 if reading.value is None else int(msgspec.json.decode(reading.value)[self.field])

    def _reader(self, key: str) -> Callable[[Region], Awaitable[Reading]]:
        return lambda region: region.reader.read_here(self.collection, key)


class Inventory(Counters):
    """Bounded counters: never below zero in any region, and rights move to where they are wanted."""

    name = "inventory"
    collection, field = "stock", "left"
    amounts: ClassVar[tuple[int, ...]] = (-3, -2, -1, -1, -1, -1, 1, 6)
    stocked: ClassVar[int] = 20

    async def run(self, world: World) -> None:
        stocker = world.client(f"{self.name}-stocker")
        for key in self.keys:
            await self._add(stocker, key, self.stocked, attempts=15)
        await super().run(world)

    def check(self, world: World, key: str, reading: Reading) -> None:
        super().check(world, key, reading)
        if self._shown(reading) < 0:
            world.verdict.safety(
                "a bounded counter stays above its bound", f"{reading.region} shows {reading.value!r}"
            )

    async def finish(self, world: World) -> None:
        await super().finish(world)
        client = world.client(f"{self.name}-last")
        for key in self.keys:
            left = self._shown(await world.ask(client.region, self._reader(key)))
            for _ in range(4):  # from far away they come a few at a time
                sold = await self._add(client, key, -left)
                if left == 0 or sold.state == "acked":
                    break
            else:
                message = f"{left} of {key} are left in all regions and {client.region} could not sell them"
                world.verdict.liveness("rights can be gathered in one region", message)


class Shared(Workload):
    """All clients edit one document of one collection, which is checked at each read and at the end."""

    moves = 0.2
    collection: ClassVar[str]
    key = "shared"

    async def finish(self, world: World) -> None:
        for name in world.names:
            self.check(world, world.stored(name, self.collection, self.key))

    async def step(self, world: World, client: Client, count: int) -> None:
        edit = self.edit(client, count)
        if edit is not None:
            operator, field, argument, word = edit
            await client.patch(
                self.collection, self.key, {operator: {field: argument}}, note=(operator, word)
            )
        else:
            reading = await client.read(self.collection, self.key, consistency="causal")
            if reading is not None:
                self.check(world, reading)

    def edit(self, client: Client, count: int) -> tuple[str, str, Any, str] | None:
        """Operator, field, argument and what is added or removed; or None to read."""
        raise NotImplementedError

    def check(self, world: World, reading: Reading) -> None:
        raise NotImplementedError


class Sets(Shared):
    """An addition stays unless a removal had seen it."""

    name = "sets"
    collection = "basket"

    def edit(self, client: Client, count: int) -> tuple[str, str, Any, str] | None:
        element = client.random.choice("abcdef")
        verb = client.random.choice(("add", "add", "remove", "read"))
        return None if verb == "read" else (f"${verb}", "items", [element], element)

    def check(self, world: World, reading: Reading) -> None:
        done = list(world.committed("sets-", reading.vector))
        expected = sorted(
            {each.note[1] for each in done if each.note[0] == "$add" and _stays(world, each, done)}
        )
        shown = [] if reading.value is None else msgspec.json.decode(reading.value)["items"]
        if shown != expected:
            world.verdict.safety(
                "an addition stays unless a removal had seen it",
                f"{reading.region} shows {shown} in {self.key}, its history says {expected}",
            )


def _stays(world: World, added: Operation, done: list[Operation]) -> bool:
    """Whether no removal of the element has seen this addition."""
    return not any(each.note == ("$remove", added.note[1]) and _saw(world, each, added) for each in done)


def _saw(world: World, later: Operation, former: Operation) -> bool:
    journal = world.journal
    context = journal.entries[journal.dots(later.trace)[0]].context
    return vectors.covers(context, *journal.dots(former.trace)[0])


class Texts(Shared):
    """Insertions into a text and a list stay, each in one piece, unless the text is emptied by who had seen them."""

    name = "texts"
    collection = "note"

    def edit(self, client: Client, count: int) -> tuple[str, str, Any, str] | None:
        word = f"[{client.name[6:]}.{count}]"
        match client.random.choice(("append", "front", "line", "unline", "read", "empty")):
            case "empty":
                return "$set", "body", "", ""
            case "append":
                return "$append", "body", word, word
            case "front":
                return "$splice", "body", {"at": 0, "remove": 0, "insert": word}, word
            case "line":
                return "$add", "lines", [word], word
            case "unline":
                word = f"[{client.name[6:]}.{client.random.randint(1, count)}]"
                return "$remove", "lines", [word], word
        return None

    def check(self, world: World, reading: Reading) -> None:
        committed = list(world.committed("texts-", reading.vector))
        done = [each.note for each in committed]
        shown = {"body": "", "lines": []} if reading.value is None else msgspec.json.decode(reading.value)
        emptied = [each for each in committed if each.note[0] == "$set"]
        words = [
            each.note[1]
            for each in committed
            if each.note[0] in ("$append", "$splice") and not any(_saw(world, e, each) for e in emptied)
        ]
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
