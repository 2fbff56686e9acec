"""Events as they are listed, and their retention.

Each region removes by itself what the rule does not keep (`causality.place.horizon`). No tombstones are written, so
nothing of a removed event stays. What comes late and lies past the horizon is removed in the next round. Digests and
listings leave it out before.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from atoll.causality.place import horizon
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.errors import AtollError
from atoll.region.group_commit import GroupCommit
from atoll.region.options import RegionOptions
from atoll.schema.system import EVENTS
from atoll.store.port import Condition, Store, View

_AT_ONCE = 500


class Erase(NamedTuple):
    """A step of a group commit: rows that no region shows any more go."""

    collection: str
    keys: tuple[str, ...]

    def want(self, wants: Wants) -> None:
        """Nothing: they go whatever they hold."""

    def perform(self, batch: Batch, view: View) -> None:
        for key in self.keys:
            batch.erase((self.collection, key))


class EventRetention:
    """Of one node; any node of a region may remove."""

    def __init__(self, store: Store, group_commit: GroupCommit, options: RegionOptions) -> None:
        self.horizon = ""
        """As of the last round: events before it are shown no more."""
        self._store = store
        self._group_commit = group_commit
        self._options = options

    def horizon_of(self, keys: Sequence[str]) -> str:
        """The key from which on events with these sorted keys are kept."""
        return horizon(keys, int(self._options.events_s * 1000), self._options.events_most)

    async def page(
        self, *, after: str, limit: int, where: Sequence[Condition] = ()
    ) -> list[tuple[str, bytes]]:
        """(key, JSON text) of the events past a key, in the order of all regions. Raises what the store raises."""
        found = await self._store.scan(
            EVENTS, after=max(after, _before(self.horizon)) or None, limit=limit, where=where
        )
        return [(key, row.value) for key, row in found.rows if row.value is not None]

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(AtollError):  # the next round does what this one could not
                await self.round()
            await asyncio.sleep(self._options.events_round_s)

    async def round(self) -> int:
        """Remove what is past the horizon; returns how many events went. Raises what the store raises."""
        keys: list[str] = []
        while rows := await self._store.scan_all(EVENTS, after=keys[-1] if keys else None, limit=_AT_ONCE):
            keys += [key for key, _ in rows]
            await asyncio.sleep(0)
        self.horizon = max(self.horizon, self.horizon_of(keys))
        gone = bisect.bisect_left(keys, self.horizon)
        for first in range(0, gone, _AT_ONCE):
            await self._group_commit.commit(Erase(EVENTS, tuple(keys[first : min(gone, first + _AT_ONCE)])))
        return gone


def _before(key: str) -> str:
    """Sorts before the key, and after every place that does."""
    return key and f"{key[:-1]}{chr(ord(key[-1]) - 1)}~"
