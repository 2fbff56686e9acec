"""One run: three regions, clients, a nemesis; then heal, and hold everything against everything."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from atoll import connect

from ..cluster import REGIONS
from . import checks
from .caller import Caller
from .deployment import Deployment
from .documents import Contested, Merged
from .feed import Reader, follow_by_client, follow_by_hand
from .history import History
from .nemesis import FAULTS, Nemesis
from .probe import Availability, Probe
from .sessions import Replies, Travellers
from .stock import Accounts, Identifiers, Inventory, Orders, Purses, Views
from .workload import World

_WORKLOADS = (Inventory, Orders, Accounts, Views, Purses, Identifiers, Merged, Contested, Travellers, Replies)
_LAST_ANSWERS_S = 90.0


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    seed: int
    folder: Path
    """Empty; logs and data stay there."""
    mounts: bool = False
    """Disks are file systems of their own, so that they can be full; needs `private_mounts`."""
    quiet_s: float = 2.0
    """The mean time between two faults."""
    pace: float = 1.0
    """More is slower clients."""
    kinds: tuple[str, ...] = ()
    """The only faults; all when empty."""


@dataclass(frozen=True, slots=True)
class Outcome:
    history: History
    seconds: float
    availability: dict[str, Availability]
    settled_s: float | None
    """From the end of the last fault, while clients went on, to one position in all regions."""
    documents: int
    entries: int
    conflicts: int
    size_bytes: int
    wires: dict[str, int]
    reconnects: int
    """Of the feed's consumers."""

    @property
    def ok(self) -> bool:
        return not self.history.violations

    def as_json(self) -> dict[str, Any]:
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built | {"ok": self.ok}


async def chaos(options: Options) -> Outcome:
    """Raises AssertionError when the regions cannot even be started."""
    began = time.monotonic()
    deployment = Deployment(options.folder, Random(f"{options.seed} wires"), mounts=options.mounts)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(deployment.stop)
        await deployment.start()
        history = History()
        over = asyncio.Event()
        databases = {
            (near, front): await stack.enter_async_context(
                connect(deployment.front_urls if front else deployment.urls, near=near)
            )
            for near in REGIONS
            for front in (False, True)
        }

        def world(name: str) -> World:
            random = Random(f"{options.seed} {name}")
            caller = Caller(deployment, history, name, random)
            return World(deployment, history, caller, random, over, options.pace, databases)

        worlds = {kind: world(kind.__name__) for kind in _WORKLOADS}
        workloads = [kind(each) for kind, each in worlds.items()]
        for workload in workloads:
            await workload.prepare()
        readers = [Reader(name, history) for name in ("client", "hand")]
        probes = {region: Probe(deployment, region) for region in REGIONS}
        background = [
            asyncio.create_task(follow_by_client(world("client"), readers[0])),
            asyncio.create_task(follow_by_hand(world("hand"), readers[1])),
            *(asyncio.create_task(probe.run()) for probe in probes.values()),
        ]
        clients = [asyncio.ensure_future(task) for workload in workloads for task in workload.tasks()]
        kinds = {kind: FAULTS[kind] for kind in options.kinds}
        nemesis = Nemesis(deployment, history, Random(f"{options.seed} nemesis"), kinds)
        try:
            await nemesis.run(options.seconds, quiet_s=options.quiet_s)
            await deployment.heal()
            over.set()
            for each in worlds.values():
                each.caller.give_up_at = time.monotonic() + _LAST_ANSWERS_S
            for task in background[2:]:
                task.cancel()
            await asyncio.gather(*clients)
            settled_s = await checks.settle(deployment, history)
            found = await checks.prove(deployment, history, workloads)
            for task in background:
                assert not task.done() or task.cancelled() or task.exception() is None, task.exception()
            if settled_s is not None:
                await checks.feeds(deployment, history, found[0].position, readers)
                await checks.outage(deployment, history, found)
            checks.logs(deployment, history)
        finally:
            for task in [*background, *clients]:
                task.cancel()
            await asyncio.gather(*background, *clients, return_exceptions=True)
        if history.violations:
            deployment.keep_data()
        return Outcome(
            history,
            time.monotonic() - began,
            {region: probe.found for region, probe in probes.items()},
            settled_s,
            sum(digest["documents"] for digest in found[0].digests.values()),
            sum(found[0].position.values()),
            len(found[0].conflicts),
            deployment.size_bytes(),
            {
                "broken": sum(p.broken for p in [*deployment.between.values(), *deployment.front.values()]),
                "bytes_changed": sum(p.corrupted for p in deployment.between.values()),
            },
            sum(reader.reconnects for reader in readers),
        )
