"""Failures on virtual time, many of each kind: how long until all is well again, and which writes are lost.

The real region code runs on simulated networks and disks: five regions at measured distances (`geography`), drawn anew
for every failure, and so is its moment. What no test machine can do to itself happens here: the power goes out between
two writes of bytes, a disk is lost while entries of it are on their way over an ocean. The same seeds give the same
figures on every machine: processes take no time here, so what is measured is waiting, for timeouts and for the network.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from random import Random
from statistics import median

from atoll.causality.vector import descends, merge
from atoll.documents.mutation import Write, put_of
from atoll.errors import AtollError
from atoll.simulation.geography import PLACES, one_way_s
from atoll.store.port import Commit
from atoll.testing import Cluster, simulated
from bench.documents import document_body
from bench.figures import Figure, Goal, number
from bench.rounds import Say
from bench.scaling.sizes import APPLICATION

GROUP = "recovery on virtual time"
REGIONS = 5
_COLLECTION = "record"
_WARM_UP_S = 6.0
"""By then all links are up, and clocks have been compared."""
_BEFORE_S = 1.0
_RESTART_S = 1.0
"""What a service manager takes to start a process again."""
_DOWN_S = 5.0
_AFTER_S = 1.0
_PACE_S = 0.025
"""Between two writes of the region that fails; the others write a fifth as often."""
_GIVEN_UP_S = 2.0


@dataclass(slots=True)
class Told:
    """What the writers of one region were told."""

    at_s: dict[str, float] = field(default_factory=dict)
    """key → when it was acknowledged"""

    def longest_pause_s(self) -> float:
        return max((later - earlier for earlier, later in pairwise(self.at_s.values())), default=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one failure."""

    silent_s: float
    """The longest time without an acknowledgement in the region that fails."""
    unseen_s: float
    """The longest time in which nothing new of it came to any one of the others."""
    unseeing_s: float
    """The longest time in which nothing new of any one of the others came to it."""
    equal_s: float
    """From the end of the cause until all regions have what any region had then."""
    acknowledged: int
    lost: int
    at_risk_s: float
    """How long before the failure the first lost write was acknowledged."""


class Stage:
    """One deployment, one failing region, and those who write. Create it inside a `VirtualLoop`."""

    def __init__(self, seed: str, *, files: bool = False, nodes: int = 1) -> None:
        random = Random(seed)
        names = tuple(sorted(random.sample(PLACES, REGIONS)))
        self.failing = random.choice(names)
        self.peer = random.choice([name for name in names if name != self.failing])
        self.cluster = Cluster(
            APPLICATION,
            names,
            seed=seed,
            one_way_s=one_way_s(names),
            files=files,
            nodes={self.failing: nodes} if nodes > 1 else {},
        )
        self.moment_s = random.uniform(0.0, 1.0)
        self.told = {name: Told() for name in names}
        self.stopped = False
        self.arrived: dict[tuple[str, str], list[float]] = {}
        """(origin, region) → when something new of the one was in the other"""
        self._seen: dict[str, dict[str, int]] = {name: {} for name in names}
        for name in names:
            self.cluster[name].disk.observers.append(self._note)

    def _note(self, region: str, commit: Commit) -> None:
        seen = self._seen[region]
        for origin, seq in commit.positions.items():
            if seq > seen.get(origin, 0):
                seen[origin] = seq
                self.arrived.setdefault((origin, region), []).append(self.cluster.loop.time())

    def longest_gap_s(self, pairs: Iterable[tuple[str, str]]) -> float:
        """In which nothing new came from an origin to a region."""
        return max(later - earlier for pair in pairs for earlier, later in pairwise(self.arrived[pair]))

    async def write(self, name: str) -> None:
        """New documents at a steady pace, one after the other; what is not answered in time is given up."""
        pace_s = _PACE_S if name == self.failing else 5 * _PACE_S
        number, random = 0, self.cluster.split(f"writer {name}")
        async with asyncio.TaskGroup() as calls:
            while not self.stopped:
                number += 1
                calls.create_task(self._put(name, f"{name}-{number}", random))
                await asyncio.sleep(pace_s)

    async def _put(self, name: str, key: str, random: Random) -> None:
        node = self.cluster.pick(name, random)
        try:
            put = put_of(self.cluster.region(node.name).rules[_COLLECTION], key, document_body(1))
            async with asyncio.timeout(_GIVEN_UP_S):
                await node.ask(lambda region: region.write(Write((put,))))
        except (AtollError, TimeoutError):
            return
        self.told[name].at_s[key] = self.cluster.loop.time()


async def process(stage: Stage) -> None:
    stage.cluster.kill(stage.failing)
    await asyncio.sleep(_RESTART_S)
    stage.cluster.start(stage.failing)


async def power(stage: Stage) -> None:
    """Inside a commit, between two writes of bytes; what was not synced is lost or torn."""
    node = stage.cluster[stage.failing]
    node.disk.faults.tear = 1.0
    while node.running:  # noqa: ASYNC110 — virtual time: to look again costs nothing
        await asyncio.sleep(0.001)
    node.disk.faults.tear = 0.0
    await asyncio.sleep(_RESTART_S)
    node.start()


async def disk(stage: Stage) -> None:
    stage.cluster.lose_disk(stage.failing)
    await asyncio.sleep(_DOWN_S)
    stage.cluster.start(stage.failing)


async def region(stage: Stage) -> None:
    cluster = stage.cluster
    cluster.partition([stage.failing])
    await asyncio.sleep(_DOWN_S)
    cluster.partition()


async def link(stage: Stage) -> None:
    network = stage.cluster.network
    for way in ((stage.failing, stage.peer), (stage.peer, stage.failing)):
        network.cut(*way)
    await asyncio.sleep(_DOWN_S)
    for way in ((stage.failing, stage.peer), (stage.peer, stage.failing)):
        network.heal(*way)


async def node(stage: Stage) -> None:
    """Of two on one database, the one that pulls from the peers; the other goes on."""
    nodes = stage.cluster.of(stage.failing)
    holding = max(nodes, key=lambda each: len(stage.cluster.region(each.name).node_leases.held))
    stage.cluster.kill(holding.name)
    await asyncio.sleep(_DOWN_S)
    holding.start()


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    fail: Callable[[Stage], Awaitable[None]]
    files: bool = False
    nodes: int = 1
    loses: bool = False
    """Whether what had not left the region may be gone."""


KINDS: Mapping[str, Kind] = {
    "process": Kind("process, back after 1 s", process),
    "power": Kind("power goes out in a commit, back after 1 s", power, files=True),
    "node": Kind("one of two nodes on one database, for 5 s", node, nodes=2),
    "disk": Kind("region with its disk, back empty after 5 s", disk, loses=True),
    "region": Kind("region cut off from all, for 5 s", region),
    "link": Kind("link between two regions cut, for 5 s", link),
}


def measure(failures: int, say: Say) -> list[Figure]:
    """So many failures of each kind: a seed each."""
    figures: list[Figure] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for slug, kind in KINDS.items():
            say(f"{GROUP}: {kind.name}, {failures} seeds")
            seeds = [f"{slug} {number}" for number in range(failures)]
            figures += figures_of(kind, list(pool.map(happen, [slug] * failures, seeds)))
    return figures


def happen(slug: str, seed: str) -> Outcome:
    """One failure, from its seed."""
    return simulated(partial(_happen, KINDS[slug], seed))


async def _happen(kind: Kind, seed: str) -> Outcome:
    stage = Stage(seed, files=kind.files, nodes=kind.nodes)
    cluster = stage.cluster
    try:
        cluster.start()
        await asyncio.sleep(_WARM_UP_S)
        writers = [asyncio.ensure_future(stage.write(name)) for name in cluster.names]
        await asyncio.sleep(_BEFORE_S + stage.moment_s)
        began_s = cluster.loop.time()
        await kind.fail(stage)
        ended_s = cluster.loop.time()
        equal_s = await _equal(cluster) - ended_s
        await asyncio.sleep(_AFTER_S)
        stage.stopped = True
        await asyncio.gather(*writers)
        await asyncio.sleep(_GIVEN_UP_S)
        await cluster.settle()
        return _outcome(stage, began_s, equal_s)
    finally:
        cluster.close()


async def _equal(cluster: Cluster) -> float:
    """When every region has what any region has now."""
    wanted: dict[str, int] = {}
    for name in cluster.names:
        wanted = merge(wanted, cluster[name].disk.store.positions())
    stores = [cluster[name].disk.store for name in cluster.names]
    while not all(descends(store.positions(), wanted) for store in stores):  # noqa: ASYNC110 — virtual time
        await asyncio.sleep(0.005)
    return cluster.loop.time()


def _outcome(stage: Stage, began_s: float, equal_s: float) -> Outcome:
    told = {key: at_s for each in stage.told.values() for key, at_s in each.at_s.items()}
    kept = {key for _, key in stage.cluster.shown(stage.peer)}
    lost = [at_s for key, at_s in told.items() if key not in kept]
    others = [name for name in stage.cluster.names if name != stage.failing]
    return Outcome(
        silent_s=stage.told[stage.failing].longest_pause_s(),
        unseen_s=stage.longest_gap_s((stage.failing, name) for name in others),
        unseeing_s=stage.longest_gap_s((name, stage.failing) for name in others),
        equal_s=equal_s,
        acknowledged=len(told),
        lost=len(lost),
        at_risk_s=max((began_s - at_s for at_s in lost), default=0.0),
    )


def figures_of(kind: Kind, outcomes: list[Outcome]) -> list[Figure]:
    lines: list[tuple[str, Callable[[Outcome], float]]] = [
        ("takes no writes for", lambda each: each.silent_s),
        ("others see nothing new of it for", lambda each: each.unseen_s),
        ("sees nothing new of one of the others for", lambda each: each.unseeing_s),
        ("equal again, once it is over, after", lambda each: each.equal_s),
    ]
    figures = []
    for what, of in lines:
        found = [of(outcome) for outcome in outcomes]
        worst = round(max(found), 3)
        half = round(median(found), 3)
        details = {"median_s": half, "failures": len(found)}
        beside = f"median {number(half)} of {len(found)} failures"
        figures.append(Figure(GROUP, f"{kind.name}: {what} at most", "s", worst, beside, details=details))
    lost, acknowledged = sum(each.lost for each in outcomes), sum(each.acknowledged for each in outcomes)
    if kind.loses:
        at_risk_ms = round(1000 * max(each.at_risk_s for each in outcomes), 1)
        what = f"{kind.name}: what is lost was acknowledged at most so long before"
        figures.append(Figure(GROUP, what, "ms", at_risk_ms))
    goal = None if kind.loses else Goal("value", at_most=0)
    what = f"{kind.name}: acknowledged writes lost"
    figures.append(Figure(GROUP, what, "", float(lost), peer=f"of {acknowledged:,}", goal=goal))
    return figures
