"""What this node knows the region to have: a version vector that is never ahead of what is durable, and its waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from atoll.causality.vector import descends, merge
from atoll.store.port import Store

Follower = Callable[[dict[str, int], dict[str, int]], None]


class Progress:
    """Of one node. `open` it before anything else asks it."""

    def __init__(self, store: Store, history_changed: Callable[[str], None] | None = None) -> None:
        """`history_changed` is called when the database is in another history: see `region.timeline`."""
        self.vector: dict[str, int] = {}
        """What the region has, as far as this node knows."""
        self._store = store
        self._history_changed = history_changed
        self._following = False
        self._waiting: list[tuple[dict[str, int], asyncio.Future[None]]] = []
        self._followers: list[Follower] = []

    async def open(self) -> int:
        """Find out where the region stands; returns the database's clock. Idempotent. Raises what the store raises."""
        if not self._following:
            self._following = True
            self._store.follow(self._noticed, self._history_changed)
        return await self.rewind()

    async def rewind(self) -> int:
        """Rewind to the database's position: it may have lost commits. Returns its clock.

        Raises what the store raises.
        """
        found = await self._store.positions()
        clock = await self._store.clock()
        self.move(found)  # not only backwards: another node may have brought what waits here
        return clock

    def follow(self, follower: Follower) -> None:
        """`follower` gets the vector before and after each time that it moves, whoever committed; it must not raise."""
        self._followers.append(follower)

    async def covered(self, vector: Mapping[str, int]) -> None:
        """Wait until the region has seen `vector`. Raises what the store raises."""
        if descends(self.vector, vector):
            return
        await self.refresh()  # another node may have it
        if descends(self.vector, vector):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (dict(vector), future)
        self._waiting.append(waiter)
        try:
            await future
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def refresh(self) -> None:
        """Take note of what other nodes have committed. Raises what the store raises."""
        self._noticed(await self._store.positions())

    def _noticed(self, positions: Mapping[str, int]) -> None:
        if not descends(self.vector, positions):
            self.move(merge(self.vector, positions))

    def move(self, vector: dict[str, int]) -> None:
        """The region has this much now, durably."""
        before, self.vector = self.vector, vector
        if vector == before:
            return
        for follower in self._followers:
            follower(before, vector)
        for wanted, future in self._waiting:
            if not future.done() and descends(vector, wanted):
                future.set_result(None)
