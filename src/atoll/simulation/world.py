"""What workloads share: the cluster, the history, and clients that behave as Atoll's own client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import msgspec

from atoll.causality import vector as vectors
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
from atoll.simulation.oracle import Oracle
from atoll.testing.cluster import Cluster, SimulatedNode

T = TypeVar("T")
_EXPECTED = (RequestError, Unavailable, Indefinite, StoreUnwritable, ReplicationError)


@dataclass(slots=True)
class Operation:
    """One write that a client wanted."""

    trace: str
    state: str = "unknown"
    """`acked`, `refused` or `unknown`: whether it happened, as the client was told."""
    dot: tuple[str, int] | None = None
    note: Any = None
    """What the workload wants to remember of it."""


class World:
    """One simulated deployment and all that is known of it from outside."""

    def __init__(
        self, cluster: Cluster, rules: Mapping[str, Rules], journal: Journal, verdict: Verdict
    ) -> None:
        self.cluster = cluster
        self.rules = rules
        self.journal = journal
        self.verdict = verdict
        self.oracle = Oracle(rules, journal)
        self.operations: dict[str, Operation] = {}
        self.reads = 0
        self.errors: dict[str, int] = {}
        self._dice = cluster.split("which node")
        self.stopped = False
        """Set when the time for workloads is over."""

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
        self.errors[name] = self.errors.get(name, 0) + 1
        if not isinstance(error, _EXPECTED):
            self.verdict.fail(CrashFound("every error has its class", f"{name}: {error.message}"))

    def check_operations(self) -> None:
        """What clients were told is what happened."""
        for operation in self.operations.values():
            dots = self.journal.dots(operation.trace)
            if (
                operation.dot is not None
                and operation.dot not in dots
                and self.journal.may_be_lost(operation.dot)
            ):
                continue
            if operation.state == "acked" and operation.dot is not None and operation.dot not in dots:
                self.verdict.safety(
                    "an acknowledged write is durable",
                    f"{operation.trace} was acknowledged as {operation.dot}; the journals hold {dots}",
                )
            if operation.state == "refused" and dots:
                self.verdict.safety(
                    "a definite error means that nothing happened",
                    f"{operation.trace} is {dots} all the same",
                )


class Client:
    """A client with a session: it retries what may have happened under one idempotency key."""

    def __init__(self, world: World, name: str, random: Random) -> None:
        self.world = world
        self.name = name
        self.random = random
        self.token: dict[str, int] = {}
        self.region = random.choice(world.names)
        self.node: str | None = None
        """The only one that is asked; None for any of the region's, each time."""
        self.count = 0

    def move(self) -> None:
        """Go on in another region."""
        self.region = self.random.choice(self.world.names)

    async def pause(self, mean_s: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / mean_s))

    async def put(self, collection: str, key: str, document: Mapping[str, Any], **options: Any) -> Operation:
        rules = self.world.rules[collection]
        guards = {name: options.pop(name) for name in ("if_match", "if_absent") if name in options}
        return await self.write(put_of(rules, key, msgspec.json.encode(document), **guards), **options)

    async def patch(
        self, collection: str, key: str, operators: Mapping[str, Any], **options: Any
    ) -> Operation:
        return await self.write(patch_of(self.world.rules[collection], key, dict(operators)), **options)

    async def write(
        self, *mutations: Mutation, note: Any = None, attempts: int = 4, session: bool = True
    ) -> Operation:
        """Never raises what a client may meet; the operation says how it ended."""
        world = self.world
        self.count += 1
        operation = Operation(f"{self.name}/{self.count}", note=note)
        world.operations[operation.trace] = operation
        write = Write(mutations, operation.trace, trace_of(operation.trace))
        token = dict(self.token) if session else {}
        told = "refused"
        for attempt in range(attempts):
            try:
                reply = await self._ask(lambda region: region.write(write, token))
            except Indefinite as error:
                world.note_error(error)
                told = "unknown"
            except (Unavailable, StoreUnwritable) as error:
                world.note_error(error)
                if attempt + 1 < attempts and told == "refused" and world.stopped:
                    break
            except AtollError as error:
                world.note_error(error)
                break
            else:
                self._acknowledged(operation, reply, token, mutations)
                return operation
            await asyncio.sleep(self.random.uniform(0.05, 0.4) * (attempt + 1))
        operation.state = told
        return operation

    async def write_here(self, build: Callable[[Region], Sequence[Mutation]], note: Any = None) -> Operation:
        """One attempt, with mutations made by the declarations of the region that takes them."""
        world = self.world
        self.count += 1
        operation = Operation(f"{self.name}/{self.count}", "refused", note=note)
        world.operations[operation.trace] = operation
        token, made = dict(self.token), list[Mutation]()

        async def work(region: Region) -> WriteReply:
            made.extend(build(region))
            return await region.write(Write(tuple(made), None, trace_of(operation.trace)), token)

        try:
            reply = await self._ask(work)
        except AtollError as error:
            world.note_error(error)
            operation.state = "unknown" if isinstance(error, Indefinite) else "refused"
        else:
            self._acknowledged(operation, reply, token, tuple(made))
        return operation

    def _acknowledged(
        self, operation: Operation, reply: WriteReply, token: dict[str, int], mutations: tuple[Mutation, ...]
    ) -> None:
        world, receipt = self.world, reply.receipt
        operation.state = "acked"
        self.token = vectors.merge(self.token, reply.vector)
        if not receipt.seq:
            return
        operation.dot = (receipt.region, receipt.seq)
        entry = world.journal.entries.get(operation.dot)
        if entry is None or entry.trace != trace_of(operation.trace):
            world.verdict.safety(
                "an acknowledged write is durable", f"{operation.trace} was acknowledged as {operation.dot}"
            )
            return
        policies = [world.rules[mutation.collection].schema.policy for mutation in mutations]
        ordered = any(each.consistency != "eventual" and each.fallback is None for each in policies)
        if ordered and not receipt.replayed and not vectors.descends(entry.context, token):
            world.verdict.safety(
                "writes follow reads and earlier writes",
                f"{operation.trace} ({operation.dot}) lacks {vectors.missing(entry.context, token)} of its session",
            )

    async def read(self, collection: str, key: str, **options: Any) -> Reading | None:
        """None when the region could not answer. Checks what was read against the history."""
        world = self.world
        token = dict(self.token)
        wanted = ReadOptions(token=token, **options)
        versions = self._versions() if collection in VERSIONED else {}
        try:
            reading: Reading = await self._ask(lambda region: region.read(collection, key, wanted))
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
        cluster = self.world.cluster
        return {
            name: tuple(node.runs for node in nodes)
            for name in cluster.names
            for nodes in (cluster.of(name),)
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
        shown = None if reading.value is None else msgspec.json.decode(reading.value)
        if shown is not None:
            shown = {name: value for name, value in shown.items() if name not in rules.lattices}
        if shown != expected:
            self.world.verdict.safety(
                "a read shows what its region has seen",
                f"{reading.region} showed {shown} for {collection}/{key}; "
                f"the history up to {dict(reading.vector)} says {expected}",
            )

    async def _ask(self, work: Callable[[Region], Awaitable[Any]]) -> Any:
        cluster = self.world.cluster
        node = cluster.pick(self.region, self.random) if self.node is None else cluster[self.node]
        await asyncio.sleep(0.001)
        return await node.ask(work)


class Workload(Protocol):
    """A client, a generator and a checker of one kind."""

    name: str

    async def run(self, world: World) -> None:
        """Act until `world.stopped`; several copies do not run at once."""

    async def finish(self, world: World) -> None:
        """After the faults have healed and all regions agree: what must hold now."""
