"""Forgets the registers of deleted documents: see `consensus.acceptor`.

A register goes once its deletion is long ago, every region votes, and the documents of every region show the deletion.
The region that has decided the deletion sees to it, and forgets it last. So what is interrupted is found again, by the
look through all registers that follows each start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.causality.types import Ballot, Stamp
from atoll.commit.identity import address_of
from atoll.consensus import acceptor
from atoll.consensus.acceptor import NEVER, Acceptor, Forget, Retire
from atoll.consensus.acceptor_set import of_document
from atoll.consensus.decided import REMEMBERED_MS, Decided, decoded
from atoll.consensus.round import Round
from atoll.errors import AtollError
from atoll.region.learning import Unasked
from atoll.region.proposer import Proposer
from atoll.region.site import Site
from atoll.region.voting import REGISTERS
from atoll.store.port import States

_AT_ONCE: Final = 64
_ROUNDS: Final = 10
"""So often within `forget_s` registers are looked at."""


class Forgetting:
    """Of one node."""

    def __init__(self, site: Site, store: States, proposer: Proposer) -> None:
        self._site = site
        self._store = store
        self._proposer = proposer
        self._looked_at: str | None = ""
        """The register up to which all were looked at since the start; None once that is done."""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._site.options.forget_s / _ROUNDS)
            with contextlib.suppress(
                AtollError, msgspec.DecodeError
            ):  # the next round does what this one could not
                await self.round()

    async def round(self) -> int:
        """Drop what can be dropped; how many registers that were. Raises what the store raises."""
        await self._look()
        over, done = list(self._proposer.over), 0
        for start in range(0, len(over), _AT_ONCE):
            done += await self._forget(over[start : start + _AT_ONCE])
        return done

    async def _look(self) -> None:
        """Note what was decided before this node started."""
        while self._looked_at is not None:
            page = await self._store.states(REGISTERS, after=self._looked_at or None, limit=_AT_ONCE)
            for name, stored in page:
                if of_document(name) and _over(acceptor.decoded(stored)):
                    self._proposer.over.setdefault(name)
            self._looked_at = page[-1][0] if page else None
            await asyncio.sleep(0)

    async def _forget(self, names: Sequence[str]) -> int:
        candidates = [(name, ballot) for name in names if (ballot := await self._candidate(name)) is not None]
        retired = await self._asked([Retire(name, ballot) for name, ballot in candidates])
        for (name, _), found in zip(candidates, retired, strict=True):
            if found.refused and not found.silent:
                # One was away when the deletion was decided, and holds what was before. A proposal reaches all.
                self._proposer.propose(self._proposer.of(address_of(name)), Unasked(None, b""))
        ready = [each for each, found in zip(candidates, retired, strict=True) if _by_all(found)]
        for but in (self._site.name, ""):
            dropped = await self._asked([Forget(name, ballot) for name, ballot in ready], but)
            ready = [each for each, found in zip(ready, dropped, strict=True) if _by_all(found, but)]
        for name, _ in ready:
            self._proposer.over.pop(name, None)
        return len(ready)

    async def _candidate(self, name: str) -> Ballot | None:
        """The ballot under which this region has decided that the register holds nothing, long ago."""
        state = acceptor.decoded(await self._store.state(REGISTERS, name))
        region = state.accepted.region
        ours = region == self._site.name or region not in self._proposer.counted().voters
        if state.accepted == NEVER or not _over(state) or not ours:
            self._proposer.over.pop(name, None)
            return None
        value = decoded(state.value)
        since_ms = self._site.now_ms() - max(self._site.options.forget_s * 1000, REMEMBERED_MS)
        return state.accepted if _latest_ms(value) < since_ms else None

    async def _asked(self, requests: Sequence[Retire | Forget], but: str = "") -> list[Round]:
        """What all acceptors have answered, without those of one region."""
        counted = self._proposer.counted()
        asked = (self._proposer.box.ask(each, counted, until="all", but=but) for each in requests)
        return await asyncio.gather(*asked)


def _over(state: Acceptor) -> bool:
    return not state.elsewhere and decoded(state.value).over


def _by_all(found: Round, but: str = "") -> bool:
    return found.granted == found.voters.keys() - {but}


def _latest_ms(value: Decided) -> int:
    stamps = (value.stamp, *(each.stamp for each in value.made))
    return max(stamp_ms(Stamp(stamp)) for stamp in stamps)
