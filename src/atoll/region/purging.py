"""Purging: what of a document is over goes, once every region has seen that it is over (`documents.purging`).

The region whose write ended something purges it. A state names the entry until then, so that a restart forgets nothing.
A region that is away for long keeps all this back: nobody knows what it wrote meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atoll.causality.vector import covers
from atoll.commit.batch import Batch
from atoll.commit.identity import REMAINS, address_of, remains_of
from atoll.commit.work import Gate, Wants
from atoll.errors import AtollError
from atoll.membership.members import Members
from atoll.region.group_commit import GroupCommit
from atoll.region.stability import Stability
from atoll.replication.link import Linked
from atoll.store.port import Store, View

_AT_ONCE = 100
"""Documents of one entry."""


class Purge(NamedTuple):
    """A step of a group commit: one entry that purges some documents."""

    remains: tuple[tuple[str, bytes], ...]
    """(key, value) of states in `REMAINS`, as they were when `seen` covered them."""
    seen: Mapping[str, int]
    gates: Sequence[Gate]

    def want(self, wants: Wants) -> None:
        wants.gates = self.gates
        for key, _ in self.remains:
            wants.states.append((REMAINS, key))
            wants.document(*address_of(key))

    def perform(self, batch: Batch, view: View) -> None:
        """Raises what closes writes."""
        if batch.closed is not None:
            raise batch.closed
        addresses = [
            address_of(key) for key, value in self.remains if view.states.get((REMAINS, key)) == value
        ]
        batch.purge([each for each in addresses if remains_of(each) not in batch.pending.states], self.seen)


class Purging(Stability):
    """Of one node; any node of a region may purge."""

    def __init__(
        self,
        members: Members,
        links: Mapping[str, Linked],
        store: Store,
        group_commit: GroupCommit,
        *,
        gates: Sequence[Gate],
        every_s: float,
    ) -> None:
        super().__init__(members, links, group_commit.progress)
        self._store = store
        self._group_commit = group_commit
        self._gates = gates
        self._every_s = every_s

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._every_s)
            with contextlib.suppress(AtollError):  # the next round does what this one could not
                await self.round()

    async def round(self) -> int:
        """Purge what may go; how many documents were looked at. Raises what the store and the gates raise."""
        seen = self._stable()
        if not seen:
            return 0
        done, after = 0, ""
        while rows := await self._store.states(REMAINS, after=after or None, limit=_AT_ONCE):
            after = rows[-1][0]
            ready = tuple((key, value) for key, value in rows if _is_seen(value, seen))
            if ready:
                await self._group_commit.commit(Purge(ready, seen, self._gates))
                done += len(ready)
            await asyncio.sleep(0)
        return done


def _is_seen(value: bytes, seen: Mapping[str, int]) -> bool:
    """Of the dot of an entry."""
    origin, _, seq = value.decode().rpartition(":")
    return covers(seen, origin, int(seq))
