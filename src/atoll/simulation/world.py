"""What workloads share: the cluster, the history, and clients that behave as Atoll's own client does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, TypeVar

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.types import Dot
from atoll.documents.mutation import Mutation, Write, patch_of, put_of
from atoll.documents.rules import Rules
from atoll.errors import (
    AtollError,
    Indefinite,
    ReplicationError,
    RequestError,
    StoreUnwritable,
    Unavailable,
)
from atoll.region.reading import Reading, ReadOptions
from atoll.region.region import Region
from atoll.replication.messages import WriteReply
from atoll.simulation.application import VERSIONED
from atoll.simulation.failures import CrashFound, Verdict
from atoll.simulation.journal import Journal, trace_of
from atoll.simulation.oracle import Oracle, plain_part
from atoll.testing.cluster import Cluster, SimulatedNode

T = TypeVar("T")
DURABLE = "an acknowledged write is durable"
_EXPECTED = (RequestError, Unavailable, Indefinite, StoreUnwritable, ReplicationError)


@dataclass(slots=True)
class Operation:
    """One write that a client wanted."""

    trace: str
    state: str = "unknown"
    """`acked`, `refused` or `unknown`: whether it happened, as the client was told."""
    dot: Dot | None = None
    note: Any = None
    """What the workload wants to remember of it."""


@dataclass(eq=False)
class World:
    """One simulated deployment and all that is known of it from outside."""

    cluster: Cluster
    rules: Mapping[str, Rules]
    journal: Journal
    verdict: Verdict
    operations: dict[str, Operation] = field(default_factory=dict)
    reads: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    """Set when the time for workloads is over."""

    def __post_init__(self) -> None:
        self.oracle = Oracle(self.rules, self.journal)
        self._dice = self.cluster.split("which node")

    @property
    def names(self) -> tuple[str, ...]:
        return self.cluster.names

    def node(self, region: str) -> SimulatedNode:
        """One of a region's nodes, as whoever has no preference is given."""
        return self.cluster.pick(region, self._dice)

    async def ask(self, region: str, work: Callable[[Region], Awaitable[T]]) -> T:
        """Whatever node of a region. Raises as `SimulatedNode.ask` does."""
        return await self.node(region).ask(work)

    def client(self, name: str) -> Client:
        return Client(self, name, self.cluster.split(f"client {name}"))

    def committed(self, prefix: str, vector: Mapping[str, int] | None = None) -> Iterator[Operation]:
        """Operations of a workload that a region which has seen `vector` must show, in no special order."""
        for trace, operation in self.operations.items():
            if trace.startswith(prefix):
                for origin, seq in self.journal.dots(trace):
                    if vector is None or vector.get(origin, 0) >= seq:
                        yield operation

    def note_error(self, error: AtollError) -> None:
        name = type(error).__name__
        self.errors[name] += 1
        if not isinstance(error, _EXPECTED):
            self.verdict.fail(CrashFound("every error has its class", f"{name}: {error.message}"))

    def check_operations(self) -> None:
        """What clients were told is what happened."""
        for operation in self.operations.values():
            dot, dots = operation.dot, self.journal.dots(operation.trace)
            if dot is not None and dot not in dots:
                if self.journal.may_be_lost(dot):
                    continue
                # It has a dot since it was acknowledged.
                self.verdict.safety(
                    DURABLE, f"{operation.trace} was acknowledged as {dot}; the journals hold {dots}"
                )
            if operation.state == "refused" and dots:
                self.verdict.safety(
                    "a definite error means that nothing happened",
                    f"{operation.trace} is {dots} all the same",
                )

    def stored(self, name: str, collection: str, key: str) -> Reading:
        """What a region's database holds, whatever its nodes know."""
        store = self.cluster[name].disk.store
        row = store.get(collection, key)
        return Reading(None if row is None else row.value, "", name, store.positions())

    async def check_takes_writes(self, client: Client, key: str, invariant: str) -> None:
        """Every region still takes a write."""
        for name in self.names:
            client.region = name
            if (await client.put("profile", key, {"name": name})).state != "acked":
                self.verdict.liveness(invariant, f"{name} takes no write")


@dataclass(eq=False)
class Client:
    """A client with a session: it retries what may have happened under one idempotency key."""

    world: World
    name: str
    random: Random
    token: dict[str, int] = field(default_factory=dict)
    node: str | None = None
    """The only one that is asked; None for any of the region's, each time."""
    count: int = 0

    def __post_init__(self) -> None:
        self.region = self.random.choice(self.world.names)

    def move(self) -> None:
        """Go on in another region."""
        self.region = self.random.choice(self.world.names)

    async def pause(self, mean_s: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / mean_s))

    async def put(self, collection: str, key: str, document: Mapping[str, Any], **options: Any) -> Operation:
        put = put_of(self.world.rules[collection], key, msgspec.json.encode(document))
        return await self.write(put, **options)

    async def patch(
        self, collection: str, key: str, operators: Mapping[str, Any], **options: Any
    ) -> Operation:
        return await self.write(patch_of(self.world.rules[collection], key, dict(operators)), **options)

    async def write(
        self, *mutations: Mutation, note: Any = None, attempts: int = 4, session: bool = True
    ) -> Operation:
        """Never raises what a client may meet; the operation says how it ended."""
        operation = self._begin(note)
        write = Write(mutations, operation.trace, trace_of(operation.trace))
        token = dict(self.token) if session else {}
        told = "refused"
        for attempt in range(attempts):
            error = await self._attempt(operation, token, lambda region: write)
            match error:
                case None:
                    return operation
                case Indefinite():
                    told = "unknown"
                case Unavailable() | StoreUnwritable():
                    if attempt + 1 < attempts and told == "refused" and self.world.stopped:
                        break
                case _:
                    break
            await asyncio.sleep(self.random.uniform(0.05, 0.4) * (attempt + 1))
        operation.state = told
        return operation

    async def write_here(self, build: Callable[[Region], Sequence[Mutation]]) -> Operation:
        """One attempt, with mutations made by the declarations of the region that takes them."""
        operation = self._begin()
        trace = trace_of(operation.trace)
        error = await self._attempt(
            operation, dict(self.token), lambda region: Write(tuple(build(region)), None, trace)
        )
        if error is not None:
            operation.state = "unknown" if isinstance(error, Indefinite) else "refused"
        return operation

    def _begin(self, note: Any = None) -> Operation:
        self.count += 1
        operation = Operation(f"{self.name}/{self.count}", note=note)
        self.world.operations[operation.trace] = operation
        return operation

    async def _attempt(
        self, operation: Operation, token: dict[str, int], build: Callable[[Region], Write]
    ) -> AtollError | None:
        """Ask one node. Returns the error that came."""
        made: list[Write] = []

        async def work(region: Region) -> WriteReply:
            made.append(build(region))
            return await region.write(made[-1], token)

        try:
            reply = await self.ask(work)
        except AtollError as error:
            self.world.note_error(error)
            return error
        self._acknowledged(operation, reply, token, made[-1].mutations)
        return None

    def _acknowledged(
        self, operation: Operation, reply: WriteReply, token: dict[str, int], mutations: tuple[Mutation, ...]
    ) -> None:
        world, receipt = self.world, reply.receipt
        operation.state = "acked"
        self.token = vectors.merge(self.token, reply.vector)
        if not receipt.seq:
            return
        operation.dot = receipt.dot
        entry = world.journal.entries.get(operation.dot)
        if entry is None or entry.trace != trace_of(operation.trace):
            world.verdict.safety(DURABLE, f"{operation.trace} was acknowledged as {operation.dot}")
            return
        policies = [world.rules[mutation.collection].schema.policy for mutation in mutations]
        ordered = any(each.consistency != "eventual" and each.fallback != "escrow" for each in policies)
        lacking = vectors.missing(entry.context, token)
        if ordered and not receipt.replayed and lacking:
            world.verdict.safety(
                "writes follow reads and earlier writes",
                f"{operation.trace} ({operation.dot}) lacks {lacking} of its session",
            )

    async def read(self, collection: str, key: str, **options: Any) -> Reading | None:
        """None when the region could not answer. Checks what was read against the history."""
        world = self.world
        token = dict(self.token)
        wanted = ReadOptions(token=token, **options)
        versions = self._versions() if collection in VERSIONED else {}
        try:
            reading: Reading = await self.ask(lambda region: _read(region, collection, key, wanted))
        except AtollError as error:
            world.note_error(error)
            return None
        world.reads += 1
        level = wanted.consistency or world.rules[collection].schema.policy.consistency
        if level in ("session", "causal") and not vectors.descends(reading.vector, token):
            world.verdict.safety(
                "a session reads what it has seen",
                f"{self.name} read {collection}/{key} in {reading.region} without "
                f"{vectors.missing(reading.vector, token)}",
            )
        if reading.region == self.region:
            world.journal.check_held_back(self.region, reading.vector)
        self._check_reading(collection, key, reading, versions.get(reading.region))
        if level != "eventual":
            self.token = vectors.merge(self.token, reading.vector)
        return reading

    def _versions(self) -> dict[str, tuple[int, ...]]:
        """region → the runs of its nodes, of those that show all by the declarations that they all run with."""
        regions = {name: self.world.cluster.of(name) for name in self.world.names}
        return {
            name: tuple(node.runs for node in nodes)
            for name, nodes in regions.items()
            if all(node.settled and node.application is nodes[0].application for node in nodes)
        }

    def _check_reading(
        self, collection: str, key: str, reading: Reading, runs: tuple[int, ...] | None
    ) -> None:
        """The plain part of what was read is what the history up to the reading's vector says.

        `runs` are those of the region when it was asked, for collections of which there are several versions.
        """
        oracle, rules = self.world.oracle, self.world.rules[collection]
        if collection in VERSIONED:
            region = self.world.cluster[reading.region].region
            if region is None or runs is None or runs != self._versions().get(reading.region):
                return
            rules = region.rules[collection]
            oracle = Oracle(region.rules, self.world.journal)
        expected = oracle.visible_plain(collection, key, reading.vector)
        shown = plain_part(rules, reading.value)
        if shown != expected:
            self.world.verdict.safety(
                "a read shows what its region has seen",
                f"{reading.region} showed {shown} for {collection}/{key}; "
                f"the history up to {dict(reading.vector)} says {expected}",
            )

    async def ask(self, work: Callable[[Region], Awaitable[Any]]) -> Any:
        cluster = self.world.cluster
        node = cluster.pick(self.region, self.random) if self.node is None else cluster[self.node]
        await asyncio.sleep(0.001)
        return await node.ask(work)


class Workload:
    """Clients, what they do, and a checker of one kind. Several copies of one workload do not run at once."""

    name: ClassVar[str]
    moves: ClassVar[float] = 1.0
    """Probability that a client goes on in another region before a step."""

    def __init__(self, clients: int, mean_s: float) -> None:
        self.clients = clients
        self.mean_s = mean_s
        """Between two steps of a client."""

    async def run(self, world: World) -> None:
        """Act until `world.stopped`."""
        await asyncio.gather(*self.actors(world))

    def actors(self, world: World) -> list[Coroutine[Any, Any, None]]:
        return [self.act(world, world.client(f"{self.name}-{number}")) for number in range(self.clients)]

    async def act(self, world: World, client: Client) -> None:
        count = 0
        while not world.stopped:
            await client.pause(self.mean_s)
            if self.moves == 1.0 or client.random.random() < self.moves:
                client.move()
            count += 1
            await self.step(world, client, count)

    async def step(self, world: World, client: Client, count: int) -> None:
        """What a client does next; `count` is 1 at its first step."""
        raise NotImplementedError

    async def rest(self, world: World) -> None:
        """Once all is healed, let what goes on by itself come to its end."""

    async def finish(self, world: World) -> None:
        """Check what must hold after the faults have healed and all regions agree."""

    @staticmethod
    async def until_none(
        world: World, look: Callable[[World], Iterable[str]], invariant: str, within_s: float
    ) -> None:
        """Wait until a look at all regions finds nothing any more. The invariant is broken if that is not in time."""
        deadline_s = world.cluster.loop.time() + within_s
        while found := list(look(world)):
            if world.cluster.loop.time() > deadline_s:
                world.verdict.liveness(invariant, "; ".join(found))
                return
            await asyncio.sleep(0.5)


class Solo(Workload):
    """A workload of one actor that is no client: it asks any region, and draws for itself."""

    async def run(self, world: World) -> None:
        random = world.cluster.split(self.name)
        while not world.stopped:
            await asyncio.sleep(random.expovariate(1 / self.mean_s))
            await self.draw(world, random)

    async def draw(self, world: World, random: Random) -> None:
        """What it does next."""
        raise NotImplementedError


async def _read(region: Region, collection: str, key: str, wanted: ReadOptions) -> Reading:
    """As HTTP and `atoll.open` do: what the node's own declarations lack is no collection of it."""
    return await region.read(region.application.collection(collection).name, key, wanted)
