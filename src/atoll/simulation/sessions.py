"""Sessions that move between regions, posts with replies, batches, and retries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import msgspec

from atoll.causality.types import Dot
from atoll.documents.mutation import Write, patch_of, put_of
from atoll.errors import AtollError, InvalidOperation
from atoll.region.region import Region
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Client, Workload, World

_COUNTS_ONCE = "a retried write counts once"


class Sessions(Workload):
    """One writer hops from region to region; what it reads is checked by the client against its token."""

    name = "sessions"

    async def finish(self, world: World) -> None:
        """On a healthy network a read waits for its session's token, and does not wait in vain."""
        client = world.client("sessions-last")
        for node in world.cluster.keepers:
            await client.put("member", "last", {"text": client.region})
            client.region, client.node = node.disk.region, node.name
            reading = await client.read("member", "last", max_wait_s=10.0)
            if reading is None or reading.region != client.region:
                message = f"{node.name} did not come to {client.token} within 10 s"
                world.verdict.liveness("a session's read is served in time", message)
            client.node = None

    async def step(self, world: World, client: Client, count: int) -> None:
        key = client.random.choice(("own-" + client.name, "m0"))
        if client.random.random() < 0.5:
            await client.put("member", key, {"text": f"{client.name} {world.cluster.loop.steps}"})
        await client.read("member", key, max_wait_s=client.random.choice((0.0, 0.3, 2.0)))


class Posts(Workload):
    """A reply never shows before its post, in any region."""

    name = "posts"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s)
        self._dots: dict[str, Dot] = {}

    def actors(self, world: World) -> list[Coroutine[Any, Any, None]]:
        return [*super().actors(world), self._watch(world)]

    async def finish(self, world: World) -> None:
        for name in world.names:
            await world.ask(name, lambda region: self._look(world, region))

    async def step(self, world: World, client: Client, count: int) -> None:
        node = world.cluster[client.region]
        seen = node.disk.store.scan("post", limit=50).rows if node.running else []
        reply_to = client.random.choice(seen)[0] if seen and client.random.random() < 0.7 else None
        if reply_to is not None and await client.read("post", reply_to) is None:
            return
        key = f"{client.name}-{count}"
        posted = await client.put("post", key, {"body": f"#{count}", "reply_to": reply_to})
        if posted.dot is not None:
            self._dots[key] = posted.dot

    async def _watch(self, world: World) -> None:
        random = world.cluster.split("posts watcher")
        while not world.stopped:
            await asyncio.sleep(random.expovariate(4))
            with contextlib.suppress(AtollError):
                await world.ask(random.choice(world.names), lambda region: self._look(world, region))

    async def _look(self, world: World, region: Region) -> None:
        for key, row in (await region.store.scan("post", limit=100_000)).rows:
            reply_to = msgspec.json.decode(row.value or b"null")["reply_to"]
            if reply_to in self._dots and world.journal.may_be_lost(self._dots[reply_to]):
                continue
            if reply_to is not None and (await region.reader.read_here("post", reply_to)).value is None:
                world.verdict.safety(
                    "a reply never shows before its post", f"{region.name} shows {key} without {reply_to}"
                )


class Batches(Workload):
    """Documents written together are seen together; a batch with one bad write changes nothing."""

    name = "batches"
    keys = ("r0", "r1", "r2")

    async def finish(self, world: World) -> None:
        for name in world.names:
            await world.ask(name, lambda region: self._look(world, region))

    async def step(self, world: World, client: Client, count: int) -> None:
        body = msgspec.json.encode({"mark": f"{client.name}.{count}"})
        writes = [put_of(world.rules["row"], key, body) for key in self.keys]
        if client.random.random() < 0.2:
            spoiled = patch_of(world.rules["profile"], "never-created", {"$set": {"age": 1}})
            operation = await client.write(*writes, spoiled)
            if operation.state == "acked":
                world.verdict.safety(
                    "a batch is all or nothing", f"{operation.trace} has a write that cannot be"
                )
        else:
            await client.write(*writes)
        with contextlib.suppress(AtollError):
            await world.ask(client.random.choice(world.names), lambda region: self._look(world, region))

    async def _look(self, world: World, region: Region) -> None:
        rows = dict((await region.store.scan("row")).rows)
        marks = {rows[key].value if key in rows else None for key in self.keys}
        if len(marks) > 1:
            world.verdict.safety("a batch is seen whole", f"{region.name} shows {sorted(map(str, marks))}")


class Retries(Workload):
    """A write sent again under its idempotency key counts once; another write under that key is refused."""

    name = "retries"

    async def run(self, world: World) -> None:
        await self.act(world, world.client(self.name))

    async def step(self, world: World, client: Client, count: int) -> None:
        operation = await client.patch("view", "retried", {"$inc": {"seen": 1}})
        if operation.state != "acked" or operation.dot is None:
            return
        await client.pause(self.mean_s)
        if world.journal.may_be_lost(operation.dot):
            return  # so are the answers that were given
        await self._again(world, client, operation.trace, operation.dot, 1)
        await self._again(world, client, operation.trace, None, 2)

    async def finish(self, world: World) -> None:
        committed = len(list(world.committed("retries/")))
        for name in world.names:
            value = world.stored(name, "view", "retried").value
            shown = 0 if value is None else msgspec.json.decode(value)["seen"]
            if shown != committed:
                world.verdict.safety(_COUNTS_ONCE, f"{name} counts {shown}, {committed} were made")

    async def _again(self, world: World, client: Client, trace: str, dot: Dot | None, amount: int) -> None:
        """Send an increment under a key that was used. `dot`: what it was then, if this is the same write."""
        mutation = patch_of(world.rules["view"], "retried", {"$inc": {"seen": amount}})
        write = Write((mutation,), trace, trace_of(trace))
        try:
            reply = await world.ask(client.region, lambda region: region.write(write))
        except InvalidOperation:
            if dot is not None:
                world.verdict.safety(_COUNTS_ONCE, f"{trace} was refused when it came again")
        except AtollError as error:
            world.note_error(error)
        else:
            if dot is None:
                world.verdict.safety(
                    "one idempotency key is one write", f"{trace} was taken for another write too"
                )
            elif reply.receipt.dot != dot or not reply.receipt.replayed:
                world.verdict.safety(_COUNTS_ONCE, f"{trace} was {dot}, now {reply.receipt}")


class Returning(Workload):
    """Asks a region for documents from the moment on in which it is back from a backup.

    It joins each run with a restore. Clients of other workloads wait for their writes just then.
    """

    name = "returning"

    async def run(self, world: World) -> None:
        client = world.client(self.name)
        while not world.stopped:
            await asyncio.sleep(self.mean_s)
            for region in sorted(world.journal.withheld):
                client.region = region
                await client.read("profile", "k0", consistency="eventual")
