"""Sharded orders, strong documents, identifiers, and the change feed."""

from __future__ import annotations

import asyncio
from random import Random
from typing import ClassVar

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.floor import floors_of, fold, lacking
from atoll.causality.origin import region_of
from atoll.consensus import acceptor
from atoll.consensus.decided import revision_of
from atoll.documents.document import revision_in
from atoll.documents.entry import Entry
from atoll.errors import AtollError, CursorExpired
from atoll.histories.history import Client as Recorded
from atoll.histories.history import Recorder
from atoll.histories.linearizability import check_registers
from atoll.region.region import Region
from atoll.region.voting import REGISTERS
from atoll.simulation.world import Client, Solo, Workload, World
from atoll.testing.cluster import SimulatedNode

_SHOWN_S = 60.0
LINEARIZABLE = "strong documents are linearizable"
_MISSES_NOTHING = "the change feed misses nothing"


class Orders(Workload):
    """Each sharded document has one writing region, and strong ones are linearizable."""

    name = "orders"
    moves = 0.3
    accounts: ClassVar[tuple[str, ...]] = ("a0", "a1")
    """Keys of strong documents that it alone writes."""

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._recorder: Recorder | None = None
        self._recorded: dict[str, Recorded] = {}

    async def rest(self, world: World) -> None:
        await self.until_none(world, self._unshown, "what was decided is shown everywhere", _SHOWN_S)

    def _unshown(self, world: World) -> list[str]:
        """What a majority has accepted, and documents of some region do not show."""
        stores = {name: world.cluster[name].disk.store for name in world.names}
        found = []
        for key in self.accounts:
            held = [acceptor.decoded(each.state(REGISTERS, f"account/{key}")) for each in stores.values()]
            latest = max(held, key=lambda state: state.accepted)
            if 2 * sum(state.accepted == latest.accepted for state in held) <= len(held):
                continue
            revision = revision_of(latest.value)
            late = [name for name, each in stores.items() if revision_in(each.get("account", key)) < revision]
            found += [f"{name} lacks revision {revision} of account/{key}" for name in late]
        return found

    async def finish(self, world: World) -> None:
        self._check_order(world)
        for (collection, key), touches in sorted(world.journal.by_document.items()):
            origins = {region_of(touch.entry.origin) for touch in touches}
            if collection == "order":
                homes = {
                    msgspec.json.decode(value)["region"]
                    for touch in touches
                    for value in touch.change.registers.values()
                    if value is not None
                }
                if origins != homes:
                    world.verdict.safety(
                        "a sharded document has one writer", f"{key} of {homes} was written in {origins}"
                    )

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.5:
            home = client.random.choice(world.names)
            key = f"{client.name}-{count}"
            await client.put("order", key, {"region": home, "quantity": count})
            await client.patch("order", key, {"$set": {"quantity": count + 1}})
            await client.read("order", key)
        else:
            await self.account(world, client, count)

    async def account(self, world: World, client: Client, count: int) -> None:
        """Read a strong document, perhaps, and write it."""
        key = client.random.choice(self.accounts)
        if client.random.random() < 0.6:
            await self.look(world, client, key)
        await self.set(world, client, key, count)

    async def set(self, world: World, client: Client, key: str, count: int) -> None:
        """Every balance is written once, so that a read says which write it saw."""
        recorded = self._record(world, client)
        balance = count * 100 + int(client.name.rpartition("-")[2])
        recorded.invoke("write", key, balance)
        written = await client.put("account", key, {"balance": balance})
        match written.state:
            case "acked":
                recorded.ok()
            case "refused":
                recorded.fail()
            case _:
                recorded.info()

    async def look(self, world: World, client: Client, key: str) -> None:
        """Read it strongly."""
        recorded = self._record(world, client)
        recorded.invoke("read", key)
        reading = await client.read("account", key, consistency="strong")
        if reading is None:
            recorded.fail()
        else:
            recorded.ok(None if reading.value is None else msgspec.json.decode(reading.value)["balance"])

    def _record(self, world: World, client: Client) -> Recorded:
        if self._recorder is None:
            loop = world.cluster.loop
            self._recorder = Recorder(lambda: round(loop.time() * 1e9))
        if client.name not in self._recorded:
            self._recorded[client.name] = self._recorder.client()
        return self._recorded[client.name]

    def _check_order(self, world: World) -> None:
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if self._recorder is None or len(lost) > 1:
            return  # a majority of copies may have gone at once, and with it what was decided
        for failure in check_registers(self._recorder.events()).failures:
            world.verdict.safety(LINEARIZABLE, str(failure))


class Identifiers(Solo):
    """Never the same twice, with clocks stepping back and nodes dying."""

    name = "identifiers"
    kinds = ("uuid7", "ulid", "snowflake", "prefixed")

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._given: dict[str, str] = {}

    async def draw(self, world: World, random: Random) -> None:
        nodes = world.cluster.of(random.choice(world.names))
        kind, count = random.choice(self.kinds), random.randint(1, 40)
        if nodes[0].disk.lost and kind in ("prefixed", "snowflake"):
            return  # how far they were handed out lay on the disk
        # All nodes of a region at once: so a number that two of them had would show.
        await asyncio.gather(*(self._check(world, node, kind, count) for node in nodes))

    async def _check(self, world: World, node: SimulatedNode, kind: str, count: int) -> None:
        ids = node.ids
        if ids is None or node.life is None or not node.life.alive:
            return
        try:
            fresh = await node.ask(lambda region: ids.generate(kind, count))
        except AtollError as error:
            world.note_error(error)
            return
        for each in fresh:
            if each in self._given:
                world.verdict.safety(
                    "identifiers never collide", f"{kind} {each} of {node.name} and {self._given[each]}"
                )
            self._given[each] = node.name


class Feed(Solo):
    """A consumer of changes that moves between regions misses nothing and sees causes first."""

    name = "feed"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._cursor: dict[str, int] = {}

    async def draw(self, world: World, random: Random) -> None:
        await self._consume(world, random.choice(world.names), random.randint(1, 30))

    async def finish(self, world: World) -> None:
        # Later workloads may still write while they finish; what was there before must have come.
        wanted = world.journal.newest
        deadline = world.cluster.loop.time() + 10
        while missing := lacking(self._cursor, wanted):
            if world.cluster.loop.time() > deadline:
                world.verdict.liveness(_MISSES_NOTHING, f"it lacks {missing}")
                return
            await self._consume(world, world.names[-1], 10_000)

    async def _consume(self, world: World, name: str, most: int) -> None:
        taken: list[tuple[Entry, dict[str, int]]] = []
        expired: CursorExpired | None = None

        async def pull(region: Region) -> None:
            stream = region.changes(dict(self._cursor), idle_s=0.05)
            async for found in stream:
                if found is None:
                    break
                taken.append(found)
                if len(taken) >= most:
                    break
            await stream.aclose()

        try:
            await world.ask(name, pull)
        except CursorExpired as error:
            expired = error
        except AtollError:
            pass  # the node died on the way: what came, came
        for entry, cursor in taken:
            self._check(world, name, entry)
            self._cursor[entry.origin] = entry.seq
            seen = fold({**self._cursor, **floors_of(cursor)})
            if fold(cursor) != seen:
                world.verdict.safety(_MISSES_NOTHING, f"{name} gave {cursor}, seen is {self._cursor}")
            self._cursor = dict(seen)
        if expired is not None:
            self._begin_anew(world, name, expired)

    def _begin_anew(self, world: World, name: str, expired: CursorExpired) -> None:
        """As the error says: from now on, once the journal really lacks what comes next."""
        store = world.cluster[name].disk.store
        for origin, seq in expired.gone.items():
            if seq != self._cursor.get(origin, 0) + 1 or store.segment(origin, seq) is not None:
                world.verdict.safety(
                    _MISSES_NOTHING,
                    f"{name} says that {origin}:{seq} is gone, after {self._cursor}",
                )
        self._cursor = dict(fold(vectors.merge(self._cursor, store.positions())))

    def _check(self, world: World, name: str, entry: Entry) -> None:
        if entry.seq != self._cursor.get(entry.origin, 0) + 1 or lacking(self._cursor, entry.context):
            world.verdict.safety(
                "the change feed is in causal order",
                f"{name} gave {entry.origin}:{entry.seq} with context {entry.context} after {self._cursor}",
            )
