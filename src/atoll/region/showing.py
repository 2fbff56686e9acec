"""Shows what was decided, where the region that decided it is gone before it was in a journal.

A decided value comes to documents, listings and feeds as an entry of the region that decided it. If that region loses
its disk first, the value is left with acceptors, where only strong reads find it. Here it is found without any.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from atoll.commit.identity import address_of
from atoll.consensus import acceptor
from atoll.consensus.acceptor_set import of_document
from atoll.consensus.decided import revision_of
from atoll.documents.document import revision_in
from atoll.errors import AtollError
from atoll.region.registers import Registers
from atoll.region.unshown import Unshown
from atoll.region.voting import REGISTERS
from atoll.store.port import Store

_EVERY_S: Final = 2.0
_LATE_S: Final = 10.0
"""Entries of a region that lives have come by then."""
_AT_ONCE: Final = 64
_PAGES: Final = 16


class Showing:
    """Of one node."""

    def __init__(self, store: Store, registers: Registers, unshown: Unshown) -> None:
        self._store = store
        self._registers = registers
        self._unshown = unshown
        self._looked_at: str | None = ""
        """The register up to which all were looked at; None once that is done."""
        self._looked_s = 0.0
        """When it was. What was found then was accepted before, nobody knows when."""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self._look()
                await self.round()
            except (AtollError, msgspec.DecodeError):
                continue  # the store cannot be asked at present

    def shows(self, since_s: float) -> bool:
        """Whether documents somewhere show all that this node's acceptors had accepted before `since_s`."""
        if self._looked_at is not None or self._unshown.overflowed:
            return False
        return self._unshown.late(max(since_s, self._looked_s)) is None

    async def round(self) -> None:
        """Once over those that are late, so many at most. Raises what the store raises, msgspec.DecodeError."""
        loop, unshown, failed = asyncio.get_running_loop(), self._unshown, set[str]()
        for _ in range(_AT_ONCE):
            now_s = loop.time()
            register = unshown.late(now_s - _LATE_S, failed)
            if register is None:
                return
            revision = await self._revision(register)
            try:
                if revision:
                    found = self._registers.proposer.of(address_of(register))
                    await self._registers.read_by_majority(found, forward=True)
                unshown.shown(register, now_s)
            except AtollError:
                failed.add(register)  # no majority answers: later

    async def _look(self) -> None:
        """Note what was accepted before this node started, or found no room."""
        if self._unshown.overflowed:
            self._unshown.overflowed, self._looked_at = False, ""
        for _ in range(_PAGES):
            if self._looked_at is None:
                return
            page = await self._store.states(REGISTERS, after=self._looked_at or None, limit=_AT_ONCE)
            for name, _ in page:
                if of_document(name) and (revision := await self._revision(name)):
                    self._unshown.accepted(name, revision, asyncio.get_running_loop().time())
            self._looked_at = page[-1][0] if page else None
            self._looked_s = asyncio.get_running_loop().time()

    async def _revision(self, register: str) -> int:
        """That this region's acceptor holds; 0 if documents here show it."""
        state = acceptor.decoded(await self._store.state(REGISTERS, register))
        held = revision_of(state.value)
        return held if held > revision_in(await self._store.get(*address_of(register))) else 0
