"""What all workloads share."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.client import Database
from atoll.demo.findings import Findings

from .caller import Caller, Unanswered
from .deployment import Deployment
from .history import History


@dataclass(frozen=True, slots=True)
class World:
    """What a workload is given. `random` is the workload's own."""

    deployment: Deployment
    history: History
    caller: Caller
    random: Random
    over: asyncio.Event
    pace: float
    """The mean pause between a client's calls is so many times its usual one."""
    databases: Mapping[tuple[str, bool], Database]
    """(near, through the proxies in front) → a client."""

    async def repeat(self, step: Callable[[], Awaitable[None]], mean_s: float) -> None:
        """Take the step again and again until the run is over; one that was begun is finished."""
        while not self.over.is_set():
            try:
                await step()
            except Unanswered:
                return  # the history has it
            await self.pause(mean_s * self.pace)

    async def pause(self, mean_s: float) -> None:
        """About so long, and not beyond the end of the run."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.random.expovariate(1 / mean_s)):
                await self.over.wait()

    def database(self) -> Database:
        return self.databases[self.caller.region(), self.random.random() < 0.5]


class Workload(ABC):
    def __init__(self, world: World) -> None:
        self.world = world

    async def prepare(self) -> None:  # noqa: B027  # most need nothing
        """Write what has to be there beforehand."""

    @abstractmethod
    def tasks(self) -> list[Awaitable[None]]:
        """Clients; each ends some time after the run is over."""

    @abstractmethod
    def wrong(self, found: Findings) -> list[str]:
        """What contradicts the acknowledged writes in one region's documents after everything healed."""


def documents(found: Findings, collection: str) -> dict[str, Any]:
    return found.documents.get(collection, {})
