"""Writes of `fallback="eventual"`: taken here while no majority answers, and decided once one does.

Such a write is an ordinary one of this region. It comes to the other regions, feeds and tokens the ordinary way. A note
in the region's store says that the document has to be proposed. `consensus.folding` makes it a revision.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import Final

from atoll.commit.batch import Batch
from atoll.commit.identity import Address
from atoll.commit.work import Wants
from atoll.consensus.folding import undecided
from atoll.documents.mutation import Receipt, Write
from atoll.errors import AtollError, Unavailable
from atoll.region.group_commit import Awaited
from atoll.region.learning import Change
from atoll.region.local_writes import LocalWrite
from atoll.region.proposer import Proposer
from atoll.region.register import Register
from atoll.region.site import Site
from atoll.store.port import Row, Store, View

UNDECIDED: Final = "undecided"
"""The space of states that name documents: collection, a slash and the key."""
_EVERY_S: Final = 1.0
_AT_ONCE: Final = 100
_TRIES: Final = 5
_DOUBTS: Final = 10_000


class TentativeWrite(LocalWrite):
    """A work: a local write that no majority has decided, and the note that one has to."""

    __slots__ = ()
    degraded = "eventual"

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing."""
        super().perform(batch, view)
        if isinstance(self.result, Receipt) and self.result.seq and not self.result.replayed:
            for mutation in self._write.mutations:
                batch.pending.states[UNDECIDED, f"{mutation.collection}/{mutation.key}"] = b""


class Done(Awaited[bool]):
    """A work: the note goes, unless the document has been written again meanwhile."""

    __slots__ = ("_address", "_tentative")

    def __init__(self, address: Address, tentative: Tentative) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._address = address
        self._tentative = tentative

    def want(self, wants: Wants) -> None:
        wants.document(*self._address)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing."""
        self.result = not self._tentative.concerns_document(self._address, batch.row(self._address))
        if self.result:
            batch.pending.states[UNDECIDED, "/".join(self._address)] = None


class Tentative:
    """Of one node."""

    def __init__(self, site: Site, store: Store, proposer: Proposer) -> None:
        self.count = 0
        """Documents that this region has yet to have decided, as of the last round."""
        self._site = site
        self._store = store
        self._proposer = proposer
        self._doubted: OrderedDict[str, None] = OrderedDict()

    # -- while cut off ---------------------------------------------------------------------------------

    async def write(self, write: Write) -> Receipt:
        """Durable here on return, and nowhere else. Raises what a local write raises."""
        writes = self._proposer.writes
        work = TentativeWrite(write, writes)
        writes.group_commit.submit(work)
        receipt = await work.done
        self.count = max(self.count, 1)
        return receipt

    def doubts(self, write: Write) -> bool:
        """Whether a majority may decide it yet, from an earlier attempt: to take it here would make it twice."""
        return write.idempotency_key in self._doubted

    def note_doubt(self, write: Write) -> None:
        """An attempt to have it decided ended without an answer."""
        if write.idempotency_key is not None:
            self._doubted[write.idempotency_key] = None
            if len(self._doubted) > _DOUBTS:
                self._doubted.popitem(last=False)

    # -- afterwards ------------------------------------------------------------------------------------

    def concerns(self, register: Register, row: Row | None) -> bool:
        """Whether the document, as it is stored, has versions that have to be decided."""
        return self.concerns_document(register.address, row)

    def concerns_document(self, address: Address, row: Row | None) -> bool:
        rules = self._proposer.rules[address[0]]
        return rules.schema.policy.writes_when_cut_off and undecided(rules, row)

    async def fold(self, register: Register) -> None:
        """Have all decided that this region has of the document. Raises RegionUnreachable where no majority answers."""
        if not self._proposer.rules[register.address[0]].schema.policy.writes_when_cut_off:
            return
        for _ in range(_TRIES):
            if not self.concerns(register, await self._store.get(*register.address)):
                return
            change = Change(None, b"")
            self._proposer.propose(register, change)
            await change.done
        raise Unavailable(f"{register.name} is written by regions that are cut off all the time; try again")

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(AtollError):  # a majority or the store cannot be asked at present
                await self.sweep()
            await asyncio.sleep(_EVERY_S * (0.5 + self._site.random.random()))

    async def sweep(self) -> None:
        """Once over all that was written while cut off. Raises AtollError."""
        after: str | None = None
        left = 0
        while page := await self._store.states(UNDECIDED, after=after, limit=_AT_ONCE):
            for name, _ in page:
                left += not await self._settled(name)
            after = page[-1][0]
        self.count = left

    async def _settled(self, name: str) -> bool:
        """Whether a document that was noted is decided now."""
        collection, _, key = name.partition("/")
        if collection not in self._proposer.rules or not self._proposer.reaches_majority():
            return False
        address = (collection, key)
        try:
            await self.fold(self._proposer.of(address))
        except AtollError:
            return False  # another time
        work = Done(address, self)
        self._proposer.writes.group_commit.submit(work)
        return await work.done
