"""A region whose store was restored from a backup: it holds back until it has again what its peers had of it.

The copy is old. What was deleted since would show again, and the next write would take a number that peers know
as another entry. So nothing is read or written here before every peer has been heard and all that they said then
has arrived. The marks lie in the store, so that a restart in between changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from atoll.causality import vector as vectors
from atoll.errors import AtollError, Unavailable

_AGAIN_S = 1.0
RESTORED = "restored_ms"
"""The counter that `atoll restore` raises: when it was, in unix milliseconds."""
_REINTRODUCED = "reintroduced_ms"


def without(peer: str) -> str:
    """The counter that says, equal to `RESTORED`, that nobody waits for this peer: it is gone for good."""
    return f"restored_ms without {peer}"


class Counters(Protocol):
    """The part of the store that is needed here."""

    async def counter(self, name: str) -> int:
        """A durable number, 0 at first."""

    async def raise_counter(self, name: str, value: int) -> None:
        """Set it to `value` unless it is higher already; durable on return."""


class RestoreRecovery:
    """Of one region to its peers."""

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        counters: Counters,
        covered: Callable[[Mapping[str, int]], Awaitable[None]],
        *,
        forked: Callable[[], Awaitable[str]],
    ) -> None:
        """`covered` waits until the region has seen a vector; `forked` says which of its own entries peers know as
        others, see `region.lineage`."""
        self.pending = False
        self._region = region
        self._awaited = set(peers)
        self._counters = counters
        self._covered = covered
        self._forked = forked
        self._fault = ""
        self._restored_ms = 0
        self._said: dict[str, int] = {}
        self._all_heard = asyncio.Event()

    async def open(self) -> None:
        """Look whether the store was restored since it last served."""
        self._restored_ms = await self._counters.counter(RESTORED)
        self.pending = self._restored_ms > await self._counters.counter(_REINTRODUCED)
        if self.pending:
            gone = {
                peer
                for peer in self._awaited
                if await self._counters.counter(without(peer)) == self._restored_ms
            }
            self._awaited -= gone
            if not self._awaited:
                self._all_heard.set()

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer said what it has."""
        if self.pending and peer in self._awaited:
            self._awaited.discard(peer)
            self._said = vectors.merge(self._said, vector)
            if not self._awaited:
                self._all_heard.set()

    async def run(self) -> None:
        """Wait for what the peers have, and then take note that the region serves again."""
        if not self.pending:
            return
        await self._all_heard.wait()
        while fault := await self._looked_for_fault():
            self._fault = fault
            await asyncio.sleep(_AGAIN_S)
        self._fault = ""
        await self._covered(self._said)
        await self._counters.raise_counter(_REINTRODUCED, self._restored_ms)
        self.pending = False

    async def _looked_for_fault(self) -> str:
        try:
            return await self._forked()
        except AtollError as error:
            return error.message

    @property
    def reason(self) -> str:
        """What is waited for."""
        if self._fault:
            return f"{self._region} was restored from a backup and cannot take part: {self._fault}"
        if self._awaited:
            waiting = f"has not yet heard {', '.join(sorted(self._awaited))}"
        else:
            waiting = "is catching up with its peers"
        return f"{self._region} was restored from a backup and {waiting}"

    def check(self) -> None:
        """Raises Unavailable while the region holds back."""
        if self.pending:
            raise Unavailable(f"{self.reason}: it serves nothing before", region=self._region)
