"""Carries out a plan's faults, and ends them."""

from __future__ import annotations

import asyncio

from atoll.simulation.application import built_in_for
from atoll.simulation.plan import Fault, Plan
from atoll.testing.cluster import Cluster, SimulatedNode
from atoll.testing.disk import Connection, DiskFaults

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
        await self._begin(fault)
        await self._until(fault.until_s)
        if fault.kind == "lost_disk":
            await self._all_in_reach(fault.regions[0])
        self._end(fault)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, self._began_s + at_s - self._cluster.loop.time()))

    async def _all_in_reach(self, name: str) -> None:
        """Wait until a region that has lost its disk can hear all others: it must, before it numbers new entries.

        Its operator starts it when it can, and lets it wait for them.
        """
        cluster = self._cluster
        others = [other for other in cluster.members if other != name]
        while any(  # noqa: ASYNC110 — virtual time: to look again costs nothing
            not any(node.running for node in cluster.of(other))
            or cluster.network.path(name, other).cut
            or cluster.network.path(other, name).cut
            for other in others
        ):
            await asyncio.sleep(0.25)

    async def _begin(self, fault: Fault) -> None:
        cluster, name, amount = self._cluster, fault.regions[0], fault.amount
        nodes = cluster.of(name)
        disk = nodes[0].disk
        match fault.kind:
            case "partition" | "one_way" | "degrade" | "slow":
                self._begin_between(fault)
            case "reset":
                cluster.network.reset(*fault.regions)
            case "kill" | "absent":
                cluster.kill(name)
            case "restart":
                cluster.restart(name)
            case "kill_in_commit":
                disk.faults.kill_before, disk.faults.kill_after = max(0.0, -amount), max(0.0, amount)
            case "full_disk":
                disk.faults.refusal = "no space left on device"
            case "failing_disk":
                disk.faults.failing = amount
            case "cut_database":
                self._way(name).cut = amount
            case "slow_disk":
                disk.faults.sync_s = amount
            case "torn_write":
                disk.faults.tear = amount
            case "pause" | "clock_step" | "clock_drift":
                for node in nodes:
                    self._begin_at(node, fault)
            case "lost_disk":
                cluster.lose_disk(name)
            case "upgrade":  # one node of a region after the other, as a rollout does
                declared = built_in_for(self._plan.workloads, int(amount))
                for node in nodes:
                    cluster.upgrade(node.name, declared)
                    await asyncio.sleep(_BETWEEN_NODES_S)
            case "restore":  # a backup is made while the region serves, and later replaces what came since
                archive = await cluster.back_up(name)
                await asyncio.sleep(amount)
                await cluster.restore(name, archive)
            case "failover":  # the standby gets nothing for a while; then the primary dies
                disk.detach_standby()
                await asyncio.sleep(amount)
                disk.faults.cut = 1.0
            case other:
                raise ValueError(f"no such fault: {other}")

    def _begin_between(self, fault: Fault) -> None:
        for source, target in self._directions(fault):
            path = self._cluster.network.path(source, target)
            match fault.kind:
                case "degrade":
                    path.loss = path.duplicate = path.reorder = path.corrupt = fault.amount / 4
                case "slow":
                    path.jitter_s += fault.amount
                case _:
                    path.cut = True

    @staticmethod
    def _begin_at(node: SimulatedNode, fault: Fault) -> None:
        match fault.kind:
            case "clock_step":
                node.clock.step(int(fault.amount))
            case "clock_drift":
                node.clock.drift_ppm = int(fault.amount)
            case _ if node.life is not None:
                node.life.occupy(fault.amount)

    def _end(self, fault: Fault) -> None:
        cluster, name = self._cluster, fault.regions[0]
        disk = cluster[name].disk
        faults = disk.faults
        match fault.kind:
            case "partition" | "one_way" | "degrade" | "slow":
                self._end_between(fault)
            case "kill_in_commit":
                faults.kill_before = faults.kill_after = 0.0
            case "torn_write":
                faults.tear = 0.0
            case "full_disk":
                faults.refusal = ""
            case "failing_disk":
                faults.failing = 0.0
            case "cut_database":
                self._way(name).cut = 0.0
            case "slow_disk":
                faults.sync_s = 0.0005
            case "failover":
                faults.cut = 0.0
                disk.fail_over()
        if fault.kind in ("kill", "absent", "lost_disk", "restore", "kill_in_commit", "torn_write"):
            cluster.start(name)

    def _end_between(self, fault: Fault) -> None:
        network = self._cluster.network
        for source, target in self._directions(fault):
            path = network.path(source, target)
            match fault.kind:
                case "degrade":
                    path.loss = path.duplicate = path.reorder = path.corrupt = 0.0
                case "slow":
                    path.jitter_s = max(0.0, path.jitter_s - fault.amount)
                case _:
                    network.heal(source, target)

    def _way(self, name: str) -> DiskFaults | Connection:
        """To the database, of one node or of all of a region."""
        node = self._cluster[name]
        return node.disk.faults if name in self._cluster.members else node.connection

    def _directions(self, fault: Fault) -> list[tuple[str, str]]:
        first, *rest = fault.regions
        match fault.kind:
            case "one_way":
                return [(first, rest[0])]
            case "partition":
                return [
                    (a, b) for a, b in self._cluster.pairs() if (a in fault.regions) != (b in fault.regions)
                ]
        return [(first, rest[0]), (rest[0], first)]
