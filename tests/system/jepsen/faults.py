"""What befalls the regions while histories are recorded: the faults of chaos that fit, and lost disks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from random import Random

from ..chaos.deployment import Deployment
from ..chaos.history import Fault, History
from ..chaos.nemesis import Nemesis
from ..cluster import REGIONS

FAULTS = {
    "kill": 3,
    "kill_twice": 1,
    "pause": 3,
    "power_cut": 1,
    "lose_disk": 3,
    "cut": 2,
    "cut_one_way": 2,
    "isolate": 3,
    "slow": 1,
    "freeze": 1,
    "tear": 1,
    "restart": 1,
    "disk_full": 1,
    "clock_inside": 1,
    "clock_beyond": 1,
}
"""Kind → how often it is in the deck."""
_LONGEST_S = 2.5
_VOTES_WITHIN_S = 60.0


class Faults(Nemesis):
    def __init__(
        self, deployment: Deployment, history: History, random: Random, kinds: Mapping[str, int] = FAULTS
    ) -> None:
        super().__init__(deployment, history, random, kinds, longest_s=_LONGEST_S)
        self._losing = False

    async def _time_healing(self, fault: Fault) -> None:
        """Nobody asks how long that takes."""

    async def _lose_disk(self, region: str) -> None:
        """One region at a time: what a majority of disks has lost is lost."""
        if self._losing:
            return
        self._losing = True
        node = self._deployment.nodes[region]
        node.kill()
        shutil.rmtree(node.data)
        await self._for_some(0.05, 4.0)
        await self._deployment.restart(region)
        if self._random.random() < 0.4:
            await self._for_some(0.01, 0.5)
            node.kill()  # while it joins, perhaps
            await self._for_some(0.05, 1.0)
            await self._deployment.restart(region)
        while not (voting := await votes(self._deployment, region)) and not self._over.is_set():
            await self._wait(0.05)
        self._losing = not voting  # at the end nobody waits for it, and a fault in a lull may begin yet


async def votes(deployment: Deployment, region: str) -> bool:
    status = await deployment.status(region)
    return status is not None and status["registers"]["voting"]


async def all_vote(deployment: Deployment) -> None:
    """Wait until all regions vote for strong documents. Raises AssertionError."""
    try:
        async with asyncio.timeout(_VOTES_WITHIN_S):
            for region in REGIONS:
                while not await votes(deployment, region):  # noqa: ASYNC110 - only its status tells
                    await asyncio.sleep(0.05)
    except TimeoutError:
        statuses = [await deployment.status(region) for region in REGIONS]
        told = [status and status["registers"] for status in statuses]
        raise AssertionError(f"not all vote within {_VOTES_WITHIN_S} s: {told}") from None
