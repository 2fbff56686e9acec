"""Registers that keep their first value: what became of a transaction, and which acceptors follow others."""

from __future__ import annotations

from atoll.causality.clock import pack
from atoll.causality.types import Ballot
from atoll.consensus.acceptor import NEVER, Accept, Prepare
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.round import Round
from atoll.region.ballot_box import BallotBox
from atoll.region.site import Site


class WriteOnce:
    """One that proposes them."""

    def __init__(self, site: Site, box: BallotBox, proposer: str) -> None:
        """`proposer` is unique among all processes: ballots name it."""
        self._site = site
        self._box = box
        self._proposer = proposer
        self._last = 0
        """The highest number of a ballot that was begun, or heard of."""

    async def attempt(self, register: str, wanted: bytes, counted: Counted) -> tuple[Round, bytes | None]:
        """Have the register's value decided, or `wanted` where it has none. One attempt, of two round trips.

        Returns the last round, and the value; None where no majority has promised the ballot. Where there is no value,
        nor anything that is wanted, there is nothing to accept.
        """
        self._last = max(pack(self._site.now_ms()), self._last + 1)
        ballot = Ballot(self._last, self._proposer)
        found = self._heard(await self._box.ask(Prepare(register, ballot), counted))
        if found.outcome != "won":
            return found, None
        value = found.value if found.accepted != NEVER and found.value else wanted
        return (await self.accepted(register, ballot, value, counted) if value else found), value

    async def accepted(self, register: str, ballot: Ballot, value: bytes, counted: Counted) -> Round:
        """Have a value accepted under a ballot that a majority has promised, or that is the register's first one."""
        upcoming = Ballot(ballot.number + 1, self._proposer)
        return self._heard(await self._box.ask(Accept(register, ballot, value, upcoming), counted))

    def _heard(self, found: Round) -> Round:
        self._last = max(self._last, found.promised.number)
        return found
