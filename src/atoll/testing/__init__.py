"""A deployment in one process, for tests: virtual time, and a network, disks and clocks that fail on request.

from atoll.testing import Cluster, simulated

def test_two_regions_agree() -> None:
    async def scenario() -> None:
        cluster = Cluster(application, ("tokyo", "frankfurt"), seed=1)
        cluster.start()
        ...
        await cluster.settle()

    simulated(scenario)
"""

from __future__ import annotations

from atoll.testing.clocks import NodeClock
from atoll.testing.cluster import Cluster, NotSettled, SimulatedNode, simulated
from atoll.testing.disk import DiskFaults, SimulatedDisk
from atoll.testing.network import Path, SimulatedNetwork, SimulatedPeers
from atoll.testing.saga_crashes import EffectCall, NotEnded, SagaRun, saga_crashes
from atoll.testing.virtual_time import Life, NodeKilled, Stalled, VirtualLoop

__all__ = [
    "Cluster",
    "DiskFaults",
    "EffectCall",
    "Life",
    "NodeClock",
    "NodeKilled",
    "NotEnded",
    "NotSettled",
    "Path",
    "SagaRun",
    "SimulatedDisk",
    "SimulatedNetwork",
    "SimulatedNode",
    "SimulatedPeers",
    "Stalled",
    "VirtualLoop",
    "saga_crashes",
    "simulated",
]
