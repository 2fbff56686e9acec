"""What a region is given by its surroundings: its name, network, clock, randomness, key and options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from atoll.causality.types import RegionName
from atoll.errors import AtollError
from atoll.region.options import DEFAULT_OPTIONS, RegionOptions
from atoll.replication.messages import Call, Peers, Reply

Answer = TypeVar("Answer", bound=Reply)


@dataclass(frozen=True, slots=True)
class Site:
    """Of one node. Production and simulation give others; nothing else tells the two apart."""

    name: RegionName
    """Of the region."""
    peers: Peers
    link_key: bytes
    """Seals what crosses between regions."""
    now_ms: Callable[[], int]
    """The wall clock, in unix milliseconds."""
    random: Random
    kernel_uncertainty_ms: Callable[[], int | None] = lambda: None
    """The kernel's own bound on the error of its clock; None where it gives none."""
    options: RegionOptions = DEFAULT_OPTIONS
    elapsed_ms: Callable[[], float] = lambda: asyncio.get_running_loop().time() * 1000
    """The time that has passed since some moment, however the wall clock is set."""

    async def ask(self, region: str, call: Call, answer: type[Answer]) -> Answer:
        """Ask one peer. Raises RegionUnreachable, Indefinite; and AtollError for an answer to something else."""
        reply = await self.peers.call(region, call, timeout_s=self.options.peer_timeout_s)
        if not isinstance(reply, answer):
            raise AtollError(f"{region} answered {type(call).__name__} with {type(reply).__name__}")
        return reply
