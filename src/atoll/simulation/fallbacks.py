"""What strong collections promise where a fallback is declared: with a majority everything, and without one a mark.

What is not marked is linearizable. A write that was taken while cut off is one that may take effect at any later time.
So the same checker takes it as one without an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import region_of
from atoll.causality.types import Dot
from atoll.documents.mutation import Write, patch_of, put_of
from atoll.errors import AtollError, Indefinite
from atoll.histories.history import Client as Recorded
from atoll.histories.history import Recorder
from atoll.histories.linearizability import check_registers
from atoll.region.reading import Reading
from atoll.replication.messages import WriteReply
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Client, Workload, World
from atoll.testing.cluster import Cluster

LINEARIZABLE = "what is not marked is linearizable"
ONLY_CUT_OFF = "a fallback is taken only by a region that is cut off"
NOT_LOST = "what was written while cut off is decided, overwritten, or in the audit"
EXACT = "an unmarked total has every sale that was acknowledged before"
NOT_OVERSOLD = "no more is sold than there was"
_STOCKED = 200
_DECIDED_S = 60.0
_NOTICED_S = 8.0
"""So long after a peer was out of reach a region may still believe it is."""


_NOT_DECIDED = msgspec.msgpack.encode((0, 0, {}))


class Fallbacks(Workload):
    """Of `booking`, whose fallback is `eventual`, and of `stock`, whose fallback is `escrow`."""

    name = "fallbacks"
    moves = 0.3

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._recorder: Recorder | None = None
        self._recorded: dict[str, Recorded] = {}
        self._taken: list[tuple[str, Dot]] = []
        """(key, dot) of what was written while cut off."""
        self._sales: list[Dot] = []
        self._sold = 0
        self._reach: Reach | None = None

    async def run(self, world: World) -> None:
        loop = world.cluster.loop
        self._recorder, self._reach = Recorder(lambda: round(loop.time() * 1e9)), Reach(world.cluster)
        watch = asyncio.ensure_future(self._reach.watch())
        stocker = world.client("fallbacks-stocker")
        stocked = await stocker.patch("stock", "f0", {"$inc": {"left": _STOCKED}}, attempts=30)
        if stocked.dot is not None:
            self._sales.append(stocked.dot)
        await super().run(world)
        watch.cancel()

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.3:
            await self._trade(world, client)
        elif client.random.random() < 0.5:
            await self._look(world, client)
        else:
            await self._book(world, client, count)

    async def finish(self, world: World) -> None:
        if self._sold > _STOCKED:
            world.verdict.safety(NOT_OVERSOLD, f"{self._sold} of {_STOCKED}")
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if self._recorder is not None and len(lost) < 2:
            for failure in check_registers(self._recorder.events()).failures:
                world.verdict.safety(LINEARIZABLE, str(failure))
        deadline_s = world.cluster.loop.time() + _DECIDED_S
        while lacking := self._unaccounted(world):
            if world.cluster.loop.time() > deadline_s:
                return world.verdict.safety(
                    NOT_LOST, f"{lacking} are not, {_DECIDED_S:g} s after all was healed"
                )
            await asyncio.sleep(0.5)  # acceptors that were started last may have to join anew first
        await world.cluster.settle()
        return None

    # -- what clients do -------------------------------------------------------------------------------

    async def _book(self, world: World, client: Client, count: int) -> None:
        """Every value is written once, so that a read says which write it saw."""
        key, guest = _key(client), count * 100 + int(client.name.rpartition("-")[2])
        recorded = self._of(client)
        recorded.invoke("write", key, guest)
        put = put_of(world.rules["booking"], key, msgspec.json.encode({"guest": guest}))
        trace = trace_of(f"{client.name}/booking/{count}")
        try:
            reply: WriteReply = await client.ask(
                lambda region: region.write(Write((put,), None, trace), None)
            )
        except AtollError as error:
            world.note_error(error)
            return recorded.info() if isinstance(error, Indefinite) else recorded.fail()
        if reply.receipt.degraded is None:
            return recorded.ok()
        recorded.info()
        self._check_cut_off(world, client, reply.receipt.degraded)
        self._taken.append((key, reply.receipt.dot))
        return None

    async def _look(self, world: World, client: Client) -> None:
        key, recorded = _key(client), self._of(client)
        recorded.invoke("read", key)
        reading = await self._read(world, client, "booking", key)
        if reading is None:
            return recorded.fail()
        if reading.degraded is None:
            return recorded.ok(None if reading.value is None else msgspec.json.decode(reading.value)["guest"])
        self._check_cut_off(world, client, reading.degraded)
        return recorded.fail()

    async def _trade(self, world: World, client: Client) -> None:
        if client.random.random() < 0.5:
            return await self._count(world, client)
        amount = client.random.randint(1, 4)
        client.count += 1
        patch = patch_of(world.rules["stock"], "f0", {"$inc": {"left": -amount}})
        trace = trace_of(f"{client.name}/stock/{client.count}")
        try:
            reply: WriteReply = await client.ask(
                lambda region: region.write(Write((patch,), None, trace), None)
            )
        except AtollError as error:
            return world.note_error(error)
        self._sold += amount
        self._sales.append(reply.receipt.dot)
        if reply.receipt.degraded is not None:
            self._check_cut_off(world, client, reply.receipt.degraded)
        return None

    async def _count(self, world: World, client: Client) -> None:
        before = list(self._sales)
        reading = await self._read(world, client, "stock", "f0")
        if reading is None or reading.degraded is not None:
            return
        lacking = [
            dot
            for dot in before
            if not vectors.covers(reading.vector, *dot) and not world.journal.may_be_lost(dot)
        ]
        if lacking:
            world.verdict.safety(EXACT, f"{reading.region} counted without {lacking}")

    async def _read(self, world: World, client: Client, collection: str, key: str) -> Reading | None:
        try:
            reading: Reading = await client.ask(lambda region: region.read(collection, key))
        except AtollError as error:
            world.note_error(error)
            return None
        world.reads += 1
        return reading

    def _of(self, client: Client) -> Recorded:
        assert self._recorder is not None
        if client.name not in self._recorded:
            self._recorded[client.name] = self._recorder.client()
        return self._recorded[client.name]

    # -- what must hold --------------------------------------------------------------------------------

    def _check_cut_off(self, world: World, client: Client, degraded: str) -> None:
        assert self._reach is not None
        heard = self._reach.certain(client.region)
        if 2 * (1 + heard) > len(world.cluster.members):
            world.verdict.safety(
                ONLY_CUT_OFF,
                f"{client.region} answered {degraded!r}, and nothing was between it and {heard} peers",
            )

    def _unaccounted(self, world: World) -> list[tuple[str, Dot]]:
        recorded = {
            (losing["region"], losing["seq"])
            for body in world.cluster.audit(world.names[0]).values()
            for losing in [msgspec.json.decode(body)["losing"]]
        }
        taken = [(key, dot) for key, dot in self._taken if dot in world.journal.entries]
        return [(key, dot) for key, dot in taken if not self._accounted(world, key, dot, recorded)]

    def _accounted(self, world: World, key: str, dot: Dot, recorded: set[Any]) -> bool:
        if dot in recorded:
            return True
        touches = world.journal.by_document["booking", key]
        value = next(each.change.registers[""] for each in touches if each.entry.dot == dot)
        decided: dict[int, bytes | None] = {}
        """Revision → value, of those that have seen it."""
        revisions = set()
        for each in touches:
            revision, stamp, base = msgspec.msgpack.decode(each.change.deltas.get("=", _NOT_DECIDED))
            if not stamp:
                if each.entry.dot != dot and each.entry.context.get(dot[0], 0) >= dot[1]:
                    return True
                continue
            revisions.add(revision)
            if vectors.covers(base, *dot):
                decided[revision] = each.change.registers[""]
        # A revision whose proposer died is in no journal if another one followed it.
        first = min(decided, default=None)
        return first is not None and (value in decided.values() or first - 1 not in revisions)


class Reach:
    """When each region was last out of another one's reach, or could not vote."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._out_s = dict.fromkeys(cluster.pairs(), cluster.loop.time() - _NOTICED_S)

    async def watch(self) -> None:
        """For ever."""
        while True:
            names = {name for pair in self._out_s for name in pair}
            ill = {name for name in names if any(map(self._ill, self._cluster.of(name)))}
            for one, other in self._out_s:
                if one in ill or other in ill or self._between(one, other):
                    self._out_s[one, other] = self._cluster.loop.time()
            await asyncio.sleep(0.02)

    def certain(self, region: str) -> int:
        """How many peers the region must have been able to ask all the time."""
        since = self._cluster.loop.time() - _NOTICED_S
        if any(out_s > since for (one, other), out_s in self._out_s.items() if one == region == other):
            return 0
        return sum(out_s < since for (one, _), out_s in self._out_s.items() if one == region)

    def _between(self, one: str, other: str) -> bool:
        network = self._cluster.network
        return any(
            path.cut or path.loss or path.corrupt or path.jitter_s > 0.1
            for path in (network.path(one, other), network.path(other, one))
        )

    def _ill(self, node: Any) -> bool:
        region, faults = node.region, node.disk.faults
        if region is None or not node.running or node.life.busy:
            return True
        if region.voting.closed is not None:
            return True
        return bool(faults.refusal or faults.failing or faults.cut or faults.sync_s > 0.01)


def _key(client: Client) -> str:
    return client.random.choice(("b0", "b1"))
