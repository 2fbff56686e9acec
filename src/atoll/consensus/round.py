"""One round of a proposer: which acceptors have answered, and what follows from that.

A witness may answer with a ballot whose value it has dropped. Each region with documents has held that value, or a
later one. So the round is not won before one of them brings it. Only if every acceptor has answered, and none brings
it, all of these regions have lost it. Then it is as with any value whose majority of disks is lost: what is left
counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from atoll.causality.types import Ballot
from atoll.consensus.acceptor import NEVER, Vote

Voters = Mapping[str, int]
"""Region → the incarnation of its acceptor. All regions of the deployment; a majority of them decides."""
Outcome = Literal["open", "won", "refused", "unreachable"]


def majority(voters: Voters) -> int:
    """How many acceptors decide."""
    return len(voters) // 2 + 1


class Round(msgspec.Struct, frozen=True):
    """A request to all acceptors, prepare or accept or inspect, and what they answered."""

    voters: Voters
    granted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    """Those that could not be asked, or did not answer."""
    promised: Ballot = NEVER
    """The highest that any of them has promised."""
    accepted: Ballot = NEVER
    """The highest under which any that granted the request has accepted a value."""
    holders: frozenset[str] = frozenset()
    """Those that have accepted the value of `accepted`."""
    value: bytes | None = None
    """That value; None where it is known, or where nothing was accepted."""
    elsewhere: Ballot = NEVER
    """The highest whose value an acceptor has dropped: others hold it."""
    pointers: frozenset[str] = frozenset()
    """Those that have accepted the value of `elsewhere`, and dropped it."""

    @property
    def missing(self) -> bool:
        """Whether a value is yet to come from those that hold it."""
        return self.elsewhere > self.accepted and len(self.granted) < len(self.voters)

    @property
    def outcome(self) -> Outcome:
        """`refused`: a higher ballot is under way. `unreachable`: too few answer."""
        needed, left = majority(self.voters), len(self.voters)
        if len(self.granted) >= needed and not self.missing:
            return "won"
        if left - len(self.refused) - len(self.silent) >= needed and not self.complete:
            return "open"
        return "refused" if self.refused else "unreachable"

    @property
    def short_of_one(self) -> bool:
        """Whether one more that grants it wins it."""
        return len(self.granted) == majority(self.voters) - 1

    @property
    def decided(self) -> bool:
        """Of an inspection: whether a majority has accepted the one value, so that it is decided.

        A value that was decided earlier, or is decided later than the first answer, cannot be missed: its majority
        and this one share an acceptor.
        """
        holders = self.holders | self.pointers if self.elsewhere == self.accepted else self.holders
        return self.outcome == "won" and len(holders) >= majority(self.voters)

    @property
    def answers(self) -> int:
        """How many acceptors have answered, or could not."""
        return len(self.granted) + len(self.refused) + len(self.silent)

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        return self.answers == len(self.voters)


def heard(state: Round, region: str, vote: Vote | None) -> Round:
    """An acceptor's answer; None where it gave none. Each acceptor is heard once."""
    if region not in state.voters or region in state.granted | state.refused | state.silent:
        return state
    if vote is None:
        return msgspec.structs.replace(state, silent=state.silent | {region})
    accepted, holders, value = state.accepted, state.holders, state.value
    elsewhere, pointers = state.elsewhere, state.pointers
    if vote.granted and vote.elsewhere:
        if vote.accepted > elsewhere:
            elsewhere, pointers = vote.accepted, frozenset({region})
        elif vote.accepted == elsewhere:
            pointers |= {region}
    elif vote.granted and vote.accepted > accepted:
        accepted, holders, value = vote.accepted, frozenset({region}), vote.value
    elif vote.granted and vote.accepted == accepted:
        holders |= {region}
        value = vote.value if value is None else value
    return Round(
        state.voters,
        state.granted | {region} if vote.granted else state.granted,
        state.refused if vote.granted else state.refused | {region},
        state.silent,
        max(state.promised, vote.promised),
        accepted,
        holders,
        value,
        elsewhere,
        pointers,
    )
