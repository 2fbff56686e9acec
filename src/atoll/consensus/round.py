"""One round of a proposer: which acceptors have answered, and what follows from that."""

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

    @property
    def outcome(self) -> Outcome:
        """`refused`: a higher ballot is under way. `unreachable`: too few answer."""
        needed, left = majority(self.voters), len(self.voters)
        if len(self.granted) >= needed:
            return "won"
        if left - len(self.refused) - len(self.silent) >= needed:
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
        return self.outcome == "won" and len(self.holders) >= majority(self.voters)

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
    if vote.granted and vote.accepted > accepted:
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
    )
