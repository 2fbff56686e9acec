"""Carries out a plan's faults, and ends them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from atoll.simulation.application import built_in
from atoll.simulation.plan import Fault, Plan
from atoll.testing.cluster import Cluster
from atoll.testing.network import Path

_BETWEEN_NODES_S = 0.7
"""Between the restarts of two nodes of a region, when it is upgraded."""


class Nemesis:
    """Every fault is a task of its own, so that they overlap."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._began_s = 0.0

    async def run(self) -> None:
        self._began_s = self._cluster.loop.time()
        await asyncio.gather(*(self._befall(fault) for fault in self._plan.faults))

    async def _befall(self, fault: Fault) -> None:
        await self._until(fault.at_s)
        self._begin(fault)
        match fault.kind:
            case "upgrade":
                await self._upgrade(fault)
            case "restore":
                await self._restore(fault)
            case "failover":
                await self._fail_over(fault)
        await self._until(fault.until_s)
        if fault.kind == "lost_disk":
            await self._all_in_reach(fault.regions[0])
        self._end(fault)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began_s + at_s - self._cluster.loop.time()))

    async def _upgrade(self, fault: Fault) -> None:
        """One node of a region after the other, as a rollout does."""
        for node in self._cluster.of(fault.regions[0]):
            self._cluster.upgrade(node.name, built_in(int(fault.amount)))
            await asyncio.sleep(_BETWEEN_NODES_S)

    async def _restore(self, fault: Fault) -> None:
        """A backup is made while the region serves; and later it takes the place of what came since."""
        name = fault.regions[0]
        archive = await self._cluster.back_up(name)
        await asyncio.sleep(fault.amount)
        await self._cluster.restore(name, archive)

    async def _fail_over(self, fault: Fault) -> None:
        """The standby gets nothing for a while; then the primary dies."""
        disk = self._cluster[fault.regions[0]].disk
        disk.detach_standby()
        await asyncio.sleep(fault.amount)
        disk.faults.cut = 1.0

    async def _all_in_reach(self, name: str) -> None:
        """A region that has lost its disk has to hear all others before it numbers new entries: its operator
        starts it when it can, and lets it wait for them.
        """
        cluster = self._cluster
        others = [other for other in cluster.names if other != name]
        while not all(  # noqa: ASYNC110 — virtual time: to look again costs nothing
            any(node.running for node in cluster.of(other))
            and not cluster.network.path(name, other).cut
            and not cluster.network.path(other, name).cut
            for other in others
        ):
            await asyncio.sleep(0.25)

    def _begin(self, fault: Fault) -> None:
        cluster, network, name = self._cluster, self._cluster.network, fault.regions[0]
        nodes = cluster.of(name)
        disk = nodes[0].disk
        match fault.kind:
            case "partition" | "one_way":
                for source, target in self._directions(fault):
                    network.cut(source, target)
            case "degrade":
                for path in self._paths(fault):
                    path.loss = path.duplicate = path.reorder = path.corrupt = fault.amount / 4
            case "slow":
                for path in self._paths(fault):
                    path.jitter_s += fault.amount
            case "reset":
                network.reset(*fault.regions)
            case "kill" | "absent":
                cluster.kill(name)
            case "restart":
                cluster.restart(name)
            case "kill_in_commit":
                disk.faults.kill_before = max(0.0, -fault.amount)
                disk.faults.kill_after = max(0.0, fault.amount)
            case "full_disk":
                disk.faults.refusal = "no space left on device"
            case "failing_disk":
                disk.faults.failing = fault.amount
            case "cut_database":
                self._cut(name, fault.amount)
            case "slow_disk":
                disk.faults.sync_s = fault.amount
            case "pause":
                for node in nodes:
                    if node.life is not None:
                        node.life.occupy(fault.amount)
            case "clock_step":
                for node in nodes:
                    node.clock.step(int(fault.amount))
            case "clock_drift":
                for node in nodes:
                    node.clock.drift_ppm = int(fault.amount)
            case "torn_write":
                disk.faults.tear = fault.amount
            case "lost_disk":
                cluster.lose_disk(name)
                for node in nodes:
                    node.options = replace(node.options, startup_check_s=60.0)
            case "upgrade" | "restore" | "failover":
                pass  # it takes its time
            case other:
                raise ValueError(f"no such fault: {other}")

    def _end(self, fault: Fault) -> None:
        cluster, name = self._cluster, fault.regions[0]
        faults = cluster[name].disk.faults
        match fault.kind:
            case "partition" | "one_way":
                for source, target in self._directions(fault):
                    cluster.network.heal(source, target)
            case "degrade":
                for path in self._paths(fault):
                    path.loss = path.duplicate = path.reorder = path.corrupt = 0.0
            case "slow":
                for path in self._paths(fault):
                    path.jitter_s = max(0.0, path.jitter_s - fault.amount)
            case "kill" | "absent" | "lost_disk" | "restore":
                cluster.start(name)
            case "kill_in_commit":
                faults.kill_before = faults.kill_after = 0.0
                cluster.start(name)
            case "torn_write":
                faults.tear = 0.0
                cluster.start(name)
            case "full_disk":
                faults.refusal = ""
            case "failing_disk":
                faults.failing = 0.0
            case "cut_database":
                self._cut(name, 0.0)
            case "slow_disk":
                faults.sync_s = 0.0005
            case "failover":
                faults.cut = 0.0
                cluster[name].disk.fail_over()

    def _cut(self, name: str, amount: float) -> None:
        """The way to the database of one node; or of all of a region."""
        if name in self._cluster.names:
            self._cluster[name].disk.faults.cut = amount
        else:
            self._cluster[name].connection.cut = amount

    def _directions(self, fault: Fault) -> list[tuple[str, str]]:
        if fault.kind == "one_way":
            return [(fault.regions[0], fault.regions[1])]
        inside = set(fault.regions)
        return [(a, b) for a, b in self._cluster.pairs() if (a in inside) != (b in inside)]

    def _paths(self, fault: Fault) -> list[Path]:
        one, other = fault.regions
        return [self._cluster.network.path(one, other), self._cluster.network.path(other, one)]
