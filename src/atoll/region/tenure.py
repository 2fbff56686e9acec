"""What one node does for all nodes of its region: pull from a peer, make identifiers under a number.

Nodes that share a store share these by leases in it, renewed three times before they run out; a node that ends gives
them back, one that dies or is paused loses them within `lease_s`. Nothing leans on it that two nodes never do the same
at once: entries that come twice are dropped by their dot, and identifiers have a counter of their own that tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from atoll.errors import AtollError
from atoll.store.port import Store


class Tenure:
    """`take` once, then `run`."""

    def __init__(
        self, store: Store, wanted: Sequence[str], changed: Callable[[], None], *, lease_s: float
    ) -> None:
        """`changed` is called when what this node holds of `wanted` has changed."""
        self.held: frozenset[str] = frozenset()
        self._store = store
        self._wanted = tuple(wanted)
        self._claimed: set[str] = set()
        self._changed = changed
        self._lease_s = lease_s

    async def take(self) -> None:
        """Hold what nobody else does. Raises what the store raises."""
        found = await self._store.lease([*self._wanted, *sorted(self._claimed)], self._lease_s)
        self._claimed &= found
        if found != self.held:
            self.held = found
            self._changed()

    async def claim(self, name: str) -> bool:
        """Hold this as well from now on; False when another node does. Raises what the store raises."""
        if not await self._store.lease([name], self._lease_s):
            return False
        self._claimed.add(name)
        self.held |= {name}
        return True

    async def run(self) -> None:
        """Renew, for ever. While the store does not answer, this node goes on as it was."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self.take()
            except AtollError:
                continue
