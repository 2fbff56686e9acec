"""External consistency: a write that was acknowledged before another one began is stamped before it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

from atoll.causality.types import Stamp
from atoll.simulation.world import Client, Operation, Workload, World

STAMPED_IN_ORDER = "what was acknowledged before is stamped before"
HOLDS_THE_TIME = "the interval holds the time"
_ROUNDS = 10
"""So often every node of a region is asked at the end, between two comparisons of clocks."""
_LOOK_S = 0.01
"""Faults of clocks last longer."""


class _Began(NamedTuple):
    """A write, and what had been acknowledged when it began."""

    operation: Operation
    region: str
    at_s: float
    floor: Stamp
    before: str
    """The write with that stamp."""


class External(Workload):
    """Each client writes to a collection with `commit_wait`, and at once somewhere else to any one.

    Where nodes need no proof of their clocks, nothing is promised of one that is off without a proof of it. So what
    was stamped in such a region meanwhile does not count.
    """

    name = "external"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._floor = Stamp(0)
        """The highest stamp of what was acknowledged and waited for its order."""
        self._floor_of = "nothing"
        self._began: list[_Began] = []
        self._off: dict[str, list[float]] = {}
        """region → when the clock of one of its nodes was further off than is allowed."""

    def actors(self, world: World) -> list[Coroutine[Any, Any, None]]:
        return [*super().actors(world), self._watch(world)]

    async def step(self, world: World, client: Client, count: int) -> None:
        key = client.random.choice(("shared", client.name))
        await self._write(world, client, "event", key)
        client.move()
        await self._write(world, client, client.random.choice(("event", "member")), key)

    async def finish(self, world: World) -> None:
        """Writes whose end is unknown may have been made, and at any time."""
        for began in self._began:
            if began.operation.state == "unknown":
                self._check(world, began, float("inf"))
        options = next(iter(world.cluster.nodes.values())).options
        await asyncio.sleep(
            options.peer_timeout_s
        )  # a comparison of clocks may wait so long for a lost answer
        client = world.client("external-last")
        for name in world.names:
            if not await self._makes_certain(world, client, name):
                world.verdict.liveness("a wait for the order ends", f"{name} makes no order certain")

    async def _makes_certain(self, world: World, client: Client, name: str) -> bool:
        """Whether one of the region's nodes does: one that can prove nothing of its clock is out of service.

        What peers prove of a silent one depends on which of their nodes it compared itself with last.
        """
        client.region = name
        ping_s = next(iter(world.cluster.nodes.values())).options.ping_s
        for _ in range(_ROUNDS):
            for node in world.cluster.of(name):
                client.node = node.name
                if (await client.put("event", "last", {"text": name}, session=False)).state == "acked":
                    return True
            await asyncio.sleep(ping_s)
        return False

    async def _write(self, world: World, client: Client, collection: str, key: str) -> None:
        region, at_s, floor, before = client.region, world.cluster.loop.time(), self._floor, self._floor_of
        text = f"{client.name} {world.cluster.loop.steps}"
        operation = await client.put(collection, key, {"text": text}, session=False)
        began = _Began(operation, region, at_s, floor, before)
        self._began.append(began)
        if operation.state != "acked" or operation.dot is None:
            return
        self._check(world, began, world.cluster.loop.time())
        stamp = world.journal.entries[operation.dot].stamp
        if collection == "event" and self._interval_holds(world, region) and stamp > self._floor:
            self._floor, self._floor_of = stamp, operation.trace

    def _check(self, world: World, began: _Began, ended_s: float) -> None:
        if self._was_off(world, began.region, began.at_s, ended_s):
            return
        for dot in world.journal.dots(began.operation.trace):
            stamp = world.journal.entries[dot].stamp
            if stamp <= began.floor:
                world.verdict.safety(
                    STAMPED_IN_ORDER,
                    f"{began.operation.trace} in {began.region} is {dot}, stamped {began.floor - stamp} below"
                    f" {began.before}, which was acknowledged before it began",
                )

    def _was_off(self, world: World, region: str, from_s: float, to_s: float) -> bool:
        times = [] if self._proves(world) else self._off.get(region, [])
        return any(from_s - 2 * _LOOK_S <= at_s <= to_s + 2 * _LOOK_S for at_s in times)

    def _interval_holds(self, world: World, region: str) -> bool:
        """Whether the intervals of the region's nodes hold the true time, as they must where clocks are in order."""
        now_ms = world.cluster.now_ms()
        for node in world.cluster.of(region):
            if node.region is None:
                continue
            interval = node.region.clock_interval()
            if interval.earliest <= now_ms <= interval.latest:
                continue
            if self._proves(world) or not self._off:
                world.verdict.safety(HOLDS_THE_TIME, f"{node.name} says {interval}, and it is {now_ms}")
            return False
        return True

    @staticmethod
    def _proves(world: World) -> bool:
        return all(node.options.require_synchronised_clocks for node in world.cluster.keepers)

    async def _watch(self, world: World) -> None:
        while not world.stopped:
            for node in world.cluster.keepers:
                if abs(node.clock.offset_ms) > node.options.max_clock_offset_ms:
                    self._off.setdefault(node.disk.region, []).append(world.cluster.loop.time())
            await asyncio.sleep(_LOOK_S)
