"""A simulated deployment with a stopwatch: when each entry became durable, in which region."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from atoll.documents.mutation import Write, put_of
from atoll.simulation.geography import PLACES, one_way_s
from atoll.store.port import Commit
from atoll.testing import Cluster
from bench.documents import document_body
from bench.scaling.sizes import APPLICATION

(COLLECTION,) = (name for name in APPLICATION.collections if name == "record")
Pair = tuple[str, str]
WARM_UP_S = 6.0
"""By then all links are up, and clocks have been compared."""


class Deployment:
    """Create it inside a `VirtualLoop`: n regions at real distances, each on a disk with fsyncs of 0.5 ms."""

    def __init__(self, regions: int, seed: int | str) -> None:
        self.names = PLACES[:regions]
        self.one_way_s = one_way_s(self.names)
        self.cluster = Cluster(APPLICATION, self.names, seed=seed, one_way_s=self.one_way_s)
        self.durable: dict[tuple[str, int], dict[str, float]] = {}
        """(origin, seq) → region → virtual second"""
        self.last_commit_s = 0.0
        for node in self.cluster.nodes.values():
            node.disk.observers.append(self._note)

    def _note(self, region: str, commit: Commit) -> None:
        self.last_commit_s = now_s = self.cluster.loop.time()
        for segment in commit.segments:
            for seq in range(segment.first_seq, segment.last_seq + 1):
                self.durable.setdefault((segment.origin, seq), {})[region] = now_s

    async def start(self) -> None:
        self.cluster.start()
        await asyncio.sleep(WARM_UP_S)

    async def write(self, region: str, key: str, number: int = 0) -> None:
        """One document of 1 kB."""
        put = put_of(self.cluster.region(region).rules[COLLECTION], key, document_body(number))
        await self.cluster[region].ask(lambda node: node.write(Write((put,))))

    async def write_at_random(self, count: int, seconds: float, keys: int, concern: str) -> None:
        """`count` writes at random moments, in regions that take turns, to `keys` documents."""
        random = self.cluster.split(concern)
        moments = sorted(random.uniform(0.0, seconds) for _ in range(count))
        began_s = self.cluster.loop.time()
        writes = []
        for number, moment in enumerate(moments):
            await asyncio.sleep(began_s + moment - self.cluster.loop.time())
            region = self.names[number % len(self.names)]
            key = f"doc-{random.randrange(keys):06d}"
            writes.append(asyncio.ensure_future(self.write(region, key, number)))
        await asyncio.gather(*writes)

    def delays(self) -> Iterable[tuple[Pair, float]]:
        """((origin, region), seconds from durable there to durable here) of every entry everywhere."""
        for (origin, _), seen in self.durable.items():
            for region, at_s in seen.items():
                if region != origin:
                    yield (origin, region), at_s - seen[origin]

    def cut(self, one: str, other: str) -> None:
        self.cluster.network.cut(one, other)
        self.cluster.network.cut(other, one)
