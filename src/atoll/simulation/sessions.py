"""Sessions that move between regions, posts with replies, batches, and retries."""

from __future__ import annotations

import asyncio

import msgspec

from atoll.documents.mutation import Write, patch_of, put_of
from atoll.errors import AtollError, InvalidOperation
from atoll.region.region import Region
from atoll.simulation.failures import LivenessViolation
from atoll.simulation.journal import trace_of
from atoll.simulation.world import Client, World


class Sessions:
    """One writer hops from region to region; what it reads is checked by the client against its token."""

    name = "sessions"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def finish(self, world: World) -> None:
        """On a healthy network a read waits for its session's token, and does not wait in vain."""
        client = world.client("sessions-last")
        for name, node in world.cluster.nodes.items():
            await client.put("member", "last", {"text": client.region})
            client.region, client.node = node.disk.region, name
            reading = await client.read("member", "last", max_wait_s=10.0)
            if reading is None or reading.region != client.region:
                message = f"{name} did not come to {client.token} within 10 s"
                world.verdict.fail(LivenessViolation("a session's read is served in time", message))
            client.node = None

    async def _act(self, world: World, client: Client) -> None:
        while not world.stopped:
            await client.pause(self._mean_s)
            client.move()
            key = client.random.choice(("own-" + client.name, "m0"))
            if client.random.random() < 0.5:
                await client.put("member", key, {"text": f"{client.name} {world.cluster.loop.steps}"})
            await client.read("member", key, max_wait_s=client.random.choice((0.0, 0.3, 2.0)))


class Posts:
    """A reply never shows before its post, in any region."""

    name = "posts"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s
        self._dots: dict[str, tuple[str, int]] = {}

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients), self._watch(world))

    async def finish(self, world: World) -> None:
        for name in world.names:
            await world.ask(name, lambda region: self._look(world, region))

    async def _act(self, world: World, client: Client) -> None:
        count = 0
        while not world.stopped:
            await client.pause(self._mean_s)
            client.move()
            count += 1
            node = world.cluster[client.region]
            seen = node.disk.store.scan("post", limit=50) if node.running else []
            reply_to = client.random.choice(seen)[0] if seen and client.random.random() < 0.7 else None
            if reply_to is not None and await client.read("post", reply_to) is None:
                continue
            key = f"{client.name}-{count}"
            posted = await client.put("post", key, {"body": f"#{count}", "reply_to": reply_to})
            if posted.dot is not None:
                self._dots[key] = posted.dot

    async def _watch(self, world: World) -> None:
        random = world.cluster.split("posts watcher")
        while not world.stopped:
            await asyncio.sleep(random.expovariate(4))
            try:
                await world.ask(random.choice(world.names), lambda region: self._look(world, region))
            except AtollError:
                continue

    async def _look(self, world: World, region: Region) -> None:
        for key, row in await region.store.scan("post", limit=100_000):
            reply_to = msgspec.json.decode(row.value or b"null")["reply_to"]
            if reply_to in self._dots and world.journal.may_be_lost(self._dots[reply_to]):
                continue
            if reply_to is not None and (await region.reader.read_here("post", reply_to)).value is None:
                world.verdict.safety(
                    "a reply never shows before its post", f"{region.name} shows {key} without {reply_to}"
                )


class Batches:
    """Documents written together are seen together; a batch with one bad write changes nothing."""

    name = "batches"
    keys = ("r0", "r1", "r2")

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        clients = [world.client(f"{self.name}-{number}") for number in range(self._clients)]
        await asyncio.gather(*(self._act(world, client) for client in clients))

    async def finish(self, world: World) -> None:
        for name in world.names:
            await world.ask(name, lambda region: self._look(world, region))

    async def _act(self, world: World, client: Client) -> None:
        rules = world.rules["row"]
        count = 0
        while not world.stopped:
            await client.pause(self._mean_s)
            client.move()
            count += 1
            body = msgspec.json.encode({"mark": f"{client.name}.{count}"})
            writes = [put_of(rules, key, body) for key in self.keys]
            if client.random.random() < 0.2:
                spoiled = patch_of(world.rules["profile"], "never-created", {"$set": {"age": 1}})
                operation = await client.write(*writes, spoiled)
                if operation.state == "acked":
                    world.verdict.safety(
                        "a batch is all or nothing", f"{operation.trace} has a write that cannot be"
                    )
            else:
                await client.write(*writes)
            try:
                await world.ask(client.random.choice(world.names), lambda region: self._look(world, region))
            except AtollError:
                continue

    async def _look(self, world: World, region: Region) -> None:
        rows = dict(await region.store.scan("row"))
        marks = {rows[key].value if key in rows else None for key in self.keys}
        if len(marks) > 1:
            world.verdict.safety("a batch is seen whole", f"{region.name} shows {sorted(map(str, marks))}")


class Retries:
    """A write sent again under its idempotency key counts once; another write under that key is refused."""

    name = "retries"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._clients = clients
        self._mean_s = mean_s

    async def run(self, world: World) -> None:
        client = world.client(self.name)
        rules = world.rules["view"]
        while not world.stopped:
            await client.pause(self._mean_s)
            client.move()
            operation = await client.patch("view", "retried", {"$inc": {"seen": 1}})
            if operation.state != "acked" or operation.dot is None:
                continue
            await client.pause(self._mean_s)
            if world.journal.may_be_lost(operation.dot):
                continue  # so are the answers that were given
            await self._again(
                world,
                client,
                operation.trace,
                operation.dot,
                patch_of(rules, "retried", {"$inc": {"seen": 1}}),
            )
            await self._again(
                world, client, operation.trace, None, patch_of(rules, "retried", {"$inc": {"seen": 2}})
            )

    async def finish(self, world: World) -> None:
        committed = len(list(world.committed("retries/")))
        for name in world.names:
            row = world.cluster[name].disk.store.get("view", "retried")
            shown = 0 if row is None or row.value is None else msgspec.json.decode(row.value)["seen"]
            if shown != committed:
                world.verdict.safety(
                    "a retried write counts once", f"{name} counts {shown}, {committed} were made"
                )

    async def _again(self, world: World, client: Client, trace: str, dot: tuple[str, int] | None, mutation) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        write = Write((mutation,), trace, trace_of(trace))
        try:
            reply = await world.ask(client.region, lambda region: region.write(write))
        except InvalidOperation:
            if dot is not None:
                world.verdict.safety("a retried write counts once", f"{trace} was refused when it came again")
            return
        except AtollError as error:
            world.note_error(error)
            return
        if dot is None:
            world.verdict.safety(
                "one idempotency key is one write", f"{trace} was taken for another write too"
            )
        elif (reply.receipt.region, reply.receipt.seq) != dot or not reply.receipt.replayed:
            world.verdict.safety("a retried write counts once", f"{trace} was {dot}, now {reply.receipt}")
