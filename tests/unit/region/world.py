"""Regions in one event loop: their peers are function calls that a test can cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from random import Random
from typing import Annotated, Any

import msgspec

from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.errors import Indefinite, RegionUnreachable
from atoll.region.options import RegionOptions
from atoll.region.region import Region
from atoll.region.site import Site
from atoll.replication.messages import Call, Reply, StreamRequest, WriteReply
from atoll.schema import Bound, BoundedCounter, Collection, Counter, home_region, key_ranges
from atoll.schema.application import Application, application_of
from atoll.store.memory.store import MemoryStore

START_MS = 1_800_000_000_000
KEY = b"k" * 32
QUIET = RegionOptions(housekeeping_s=1e9, purge_s=1e9, events_most=0)


class Note(Collection, consistency="causal"):
    text: str = ""


class Like(Collection):
    count: Counter


class Price(Collection, consistency="bounded", max_staleness_s=1.0):
    cents: int = 0


class Account(Collection, consistency="strong"):
    balance: int = 0


class Ledger(Collection, consistency="strong", placement=key_ranges({"": "a", "m": "b"})):
    balance: int = 0


class Stock(Collection, consistency="strong", fallback="escrow"):
    left: BoundedCounter = 0


class Ticket(Collection, consistency="strong", fallback="escrow"):
    left: Annotated[BoundedCounter, Bound(split="creator")] = 0


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str
    sku: str = ""


class Letter(Collection, placement=key_ranges({"": "a", "m": "b"})):
    text: str = ""


APPLICATION = application_of(Note, Like, Price, Account, Ledger, Stock, Ticket, Order, Letter, name="world")


class LocalPeers:
    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        self._world.calls.append((self._name, region, call))
        await asyncio.sleep(self._world.request_s.get((self._name, region), 0.001))
        self._world.check(self._name, region)
        self._world[region].check_peer(self._name)
        reply = await self._world[region].answer(call)
        await asyncio.sleep(self._world.reply_s.get((region, self._name), 0.001))
        try:
            self._world.check(self._name, region)
        except RegionUnreachable as error:
            raise Indefinite(f"the answer was lost: {error.message}") from error
        return reply

    async def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        if self._world.distance_s:
            await asyncio.sleep(self._world.distance_s)
        self._world.check(self._name, region)
        serving = self._world[region]
        serving.check_peer(self._name)
        async for chunk in serving.stream(request):
            self._world.check(self._name, region)
            if self._world[region] is not serving:
                raise RegionUnreachable(f"{region} was started anew")
            yield chunk


class World:
    """`async with World() as it`: regions a, b and c, started, each with a store in memory."""

    def __init__(
        self,
        *names: str,
        application: Application = APPLICATION,
        skew_ms: Mapping[str, int] = {},
        distance_s: float = 0.0,
        **options: Any,
    ) -> None:
        self.names = names or ("a", "b", "c")
        self.application = application
        self.skew_ms = dict(skew_ms)
        self.kernel_uncertainty_ms: int | None = None
        self.kernels_ms: dict[str, int | None] = {}
        """Of single regions, where they differ."""
        self.distance_s = distance_s
        self.cut: set[frozenset[str]] = set()
        self.request_s: dict[tuple[str, str], float] = {}
        """(who asks, who is asked) → how long requests are on their way, where that is long."""
        self.reply_s: dict[tuple[str, str], float] = {}
        """(who was asked, who asked) → the same of replies."""
        self.calls: list[tuple[str, str, Call]] = []
        self.stores = {name: MemoryStore() for name in self.names}
        self.options = replace(QUIET, **options)
        self.regions: dict[str, Region] = {}

    def __getitem__(self, name: str) -> Region:
        return self.regions[name]

    def create(self, name: str, *, founding: bool | None = None) -> Region:
        """`founding`: its empty store has lost nothing; as a rule so at the first start."""
        founding = name not in self.regions if founding is None else founding
        loop = asyncio.get_running_loop()
        site = Site(
            name,
            LocalPeers(self, name),
            KEY,
            lambda: START_MS + int(loop.time() * 1000) + self.skew_ms.get(name, 0),
            Random(name),
            lambda: self.kernels_ms.get(name, self.kernel_uncertainty_ms),
            replace(self.options, founding=founding),
        )
        region = Region(site, self.names, self.application, self.stores[name])
        self.regions[name] = region
        return region

    async def __aenter__(self) -> World:
        for name in self.names:
            self.create(name)
        for region in self.regions.values():
            await region.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        for region in self.regions.values():
            await region.stop()

    def check(self, one: str, other: str) -> None:
        if other not in self.regions or {frozenset((one, other)), frozenset((other,))} & self.cut:
            raise RegionUnreachable(f"{other} is cut off")

    def partition(self, *pairs: str) -> None:
        """`partition("ab", "ac")` cuts these links; `partition()` heals all."""
        self.cut = {frozenset(pair) for pair in pairs}

    def mutation(self, collection: str, key: str, body: Any, if_match: str | None = None) -> Mutation:
        """A dictionary with operators is a patch, another one a put, None a deletion."""
        rules = next(iter(self.regions.values())).rules[collection]
        if body is None:
            return Delete(collection, key, if_match)
        if any(name.startswith("$") for name in body):
            return patch_of(rules, key, body, if_match=if_match)
        return put_of(rules, key, msgspec.json.encode(body), if_match=if_match)

    async def write(
        self, region: str, collection: str, key: str, body: Any, token: Mapping[str, int] | None = None
    ) -> WriteReply:
        return await self[region].write(Write((self.mutation(collection, key, body),)), token)

    async def settled(self) -> None:
        """Wait until all regions have seen the same."""
        async with asyncio.timeout(60):
            while len({tuple(sorted(region.vector.items())) for region in self.regions.values()}) > 1:  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.01)

    def shown(self, region: str, collection: str, key: str) -> Any:
        row = self.stores[region].tables.get(collection, key)
        return None if row is None or row.value is None else msgspec.json.decode(row.value)
