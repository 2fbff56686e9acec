"""A witness drops what regions with documents hold: it keeps ballots, and no values.

A value goes once *all* regions with documents have said that they hold it, or a later one. So any majority with the
witness has a region that brings the value. One that was away does not hold what was decided meanwhile. Then the witness
has the register decided anew, which reaches all regions.

The outcomes of transactions are small, and have no values. The witness has them finished where documents are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from atoll.causality.types import Ballot
from atoll.consensus import acceptor, decided
from atoll.consensus.acceptor import NEVER, Acceptor, Holds
from atoll.consensus.acceptor_set import of_document
from atoll.consensus.outcome import KEPT_MS, OUTCOMES, begun_ms
from atoll.errors import AtollError
from atoll.region.site import Site
from atoll.region.voting import REGISTERS, Voting
from atoll.replication.messages import RelieveCall, RelieveReply, VoteCall, VoteReply
from atoll.store.port import States

_EVERY_S: Final = 0.5
_OUTCOMES_EVERY: Final = 20
"""Rounds."""
_GONE_MS: Final = 20_000
"""A transaction that began so long ago has no coordinator any more."""
_AT_ONCE: Final = 64
_PATIENCE: Final = 6
"""Rounds in which all regions answered, and one lacked the value. Then it is decided anew."""


class Releasing:
    """Of one node of a witness. `run` it."""

    def __init__(self, site: Site, store: States, voting: Voting) -> None:
        self._site = site
        self._store = store
        self._voting = voting
        self._lacked: dict[str, int] = {}
        """Register → in how many rounds a region lacked its value."""
        self._told: set[str] = set()
        """Transactions that another region was told to finish."""
        self._looked_at: str | None = ""
        """The register up to which all were looked at since the start; None once that is done."""

    async def run(self) -> None:
        """For ever."""
        rounds = 0
        while True:
            await asyncio.sleep(_EVERY_S * (0.5 + self._site.random.random()))
            rounds += 1
            with contextlib.suppress(AtollError, msgspec.DecodeError):
                await self._look()
                await self.round()
                if rounds % _OUTCOMES_EVERY == 0:
                    await self._hand_over()

    async def round(self) -> None:
        """Ask once for all values that are held here. Raises what the store raises."""
        names = list(self._voting.held)
        for start in range(0, len(names), _AT_ONCE):
            held = {
                name: each for name in names[start : start + _AT_ONCE] if (each := await self._held(name))
            }
            if held and not await self._release(held):
                return  # a region is away: so it is for the others

    async def _look(self) -> None:
        """Note what was accepted before this node started."""
        while self._looked_at is not None:
            page = await self._store.states(REGISTERS, after=self._looked_at or None, limit=_AT_ONCE)
            for name, stored in page:
                if _releasable(name, acceptor.decoded(stored)):
                    self._voting.held.setdefault(name)
            self._looked_at = page[-1][0] if page else None
            await asyncio.sleep(0)

    async def _held(self, name: str) -> Ballot | None:
        """The ballot of the value that is held; None where there is none, or it stays."""
        self._voting.held.pop(name, None)  # a vote that is committed from now on brings it back
        state = acceptor.decoded(await self._store.state(REGISTERS, name))
        if _releasable(name, state):
            self._voting.held.setdefault(name)
            return state.accepted
        self._lacked.pop(name, None)
        return None

    async def _release(self, held: Mapping[str, Ballot]) -> bool:
        """Whether all regions with documents have answered."""
        counted = self._voting.counted()
        if not counted.set.settled:
            return False
        call = VoteCall.of(counted, *(Holds(name, ballot) for name, ballot in held.items()))
        answers = await asyncio.gather(*(self._asked(region, call) for region in self._voting.keepers))
        if not all(answers):
            return False
        by_all = {
            name: ballot
            for at, (name, ballot) in enumerate(held.items())
            if all(each[at] for each in answers)
        }
        if by_all:
            await self._voting.release(by_all, counted)
        late = []
        for name, ballot in held.items():
            if name in by_all:
                self._lacked.pop(name, None)  # the next round finds whether it is gone
                continue
            self._lacked[name] = self._lacked.get(name, 0) + 1
            if self._lacked[name] % _PATIENCE == 0:
                late.append((name, ballot.region))
        await self._decided_anew(late)
        return True

    async def _asked(self, region: str, call: VoteCall) -> Sequence[bool]:
        """For each request, whether the region holds the value. Empty where it does not answer."""
        try:
            reply = await self._site.ask(region, call, VoteReply)
        except AtollError:
            return ()
        self._voting.heard(reply.voters, reply.set)
        return [vote.granted for vote in reply.votes]

    async def _decided_anew(self, late: Sequence[tuple[str, str]]) -> None:
        """By the region that proposed the value: it is the one whose ballot is promised."""
        by_region: dict[str, list[str]] = {}
        for name, region in late:
            by_region.setdefault(region, []).append(name)
        for region, names in by_region.items():
            await self._relieved(RelieveCall(tuple(names)), first=region)

    async def _relieved(self, call: RelieveCall, first: str = "") -> bool:
        """Whether a region with documents sees to it."""
        for region in sorted(self._voting.keepers, key=lambda each: each != first):
            with contextlib.suppress(AtollError):
                await self._site.ask(region, call, RelieveReply)
                return True
        return False

    async def _hand_over(self) -> None:
        """Have transactions finished that nobody has dropped here."""
        after: str | None = OUTCOMES
        while after is not None and after.startswith(OUTCOMES):
            page = await self._store.states(REGISTERS, after=after, limit=_AT_ONCE)
            due: list[tuple[str, bytes]] = []
            for name, stored in page:
                if not name.startswith(OUTCOMES):
                    break
                transaction = name.removeprefix(OUTCOMES)
                age_ms = self._site.now_ms() - begun_ms(transaction)
                if age_ms > KEPT_MS or (age_ms > _GONE_MS and transaction not in self._told):
                    due.append((transaction, acceptor.decoded(stored).value))
            if due and await self._relieved(RelieveCall(transactions=tuple(due))):
                self._told.update(transaction for transaction, _ in due)
            after = page[-1][0] if page else None


def _releasable(name: str, state: Acceptor) -> bool:
    """Outcomes stay until they are over; so do deletions, until their registers are dropped."""
    if not of_document(name) or state.accepted == NEVER or state.elsewhere:
        return False
    return not decided.decoded(state.value).over
