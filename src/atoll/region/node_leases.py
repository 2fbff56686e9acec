"""What one node does for all nodes of its region: pull from a peer, make identifiers under a number.

Nodes that share a store share these by leases in it, renewed three times before they run out; a node that ends gives
them back, one that dies or is paused loses them within `lease_s`. Nothing leans on it that two nodes never do the same
at once: entries that come twice are dropped by their dot, and identifiers have a counter of their own that tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from atoll.errors import AtollError
from atoll.store.port import Store

_PRESENT = "present: "
"""A lease that each node has of its own: so the others know that it is there."""


class NodeLeases:
    """`take` once, then `run`."""

    def __init__(
        self, store: Store, wanted: Sequence[str], changed: Callable[[], None], *, lease_s: float
    ) -> None:
        """`changed` is called when what this node holds of `wanted` has changed."""
        self.held: frozenset[str] = frozenset()
        self._store = store
        self._wanted = tuple(wanted)
        self._presence = _PRESENT + store.holder
        self._claimed: set[str] = set()
        self._changed = changed
        self._lease_s = lease_s

    async def take(self) -> None:
        """Hold this node's share, if nobody else does yet, and give back what is another's. Raises what the store
        raises.
        """
        share = self._share(await self._store.holders())
        surplus = [name for name in self._wanted if name in self.held and name not in share]
        asked = [self._presence, *share, *sorted(self._claimed)]
        found = await self._store.lease(asked, self._lease_s) - {self._presence}
        self._claimed &= found
        if found != self.held:
            self.held = found  # what is given back is let go of before the other one may take it
            self._changed()
        if surplus:
            await self._store.give_back(surplus)

    def _share(self, holders: Mapping[str, str]) -> list[str]:
        """In turn, over the nodes that are there: all come to the same spread by themselves."""
        present = {holder for name, holder in holders.items() if name.startswith(_PRESENT)}
        nodes = sorted(present | {self._store.holder})
        return [name for at, name in enumerate(self._wanted) if nodes[at % len(nodes)] == self._store.holder]

    async def claim(self, name: str) -> bool:
        """Hold this as well from now on; False when another node does. Raises what the store raises."""
        if not await self._store.lease([name], self._lease_s):
            return False
        self._claimed.add(name)
        self.held |= {name}
        return True

    async def release(self, name: str) -> None:
        """Hold what was claimed no longer, so that another node may. Raises what the store raises."""
        if name in self._claimed:
            self._claimed.discard(name)
            self.held -= {name}
            await self._store.give_back([name])

    async def run(self) -> None:
        """Renew, for ever. While the store does not answer, this node goes on as it was."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self.take()
            except AtollError:
                continue
