"""A register that is deleted, forgotten and created anew, under lost and late messages and lost disks.

Values say which document they belong to, by the number of the proposal that created it, and what was done to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from atoll.causality.types import Ballot
from atoll.consensus import acceptor
from atoll.consensus.acceptor import (
    NEVER,
    Accept,
    Acceptor,
    Forget,
    Prepare,
    Request,
    Retire,
    Vote,
    joined,
    vote,
)
from atoll.consensus.round import Round, heard
from atoll.consensus.voters import Joining, later, outdated

Value = dict[str, Any]


class Rules(NamedTuple):
    """A bug replaces one."""

    past: Callable[[Acceptor], int] = acceptor.past
    all_agree: bool = True
    """Whether every acceptor has to hold nothing else."""
    all_show: bool = True
    """Whether every region's documents have to show the deletion."""
    by_time: bool = True
    """Whether what is created has a revision above those of former documents."""
    joins_forgotten: bool = True
    """Whether an acceptor that joins anew takes over what was promised for forgotten registers."""


@dataclass
class Region:
    """What is on one region's disk."""

    incarnation: int = 0
    stored: Acceptor | None = None
    forgotten: int = 0
    row: Value | None = None
    """The document, as the journal has brought it."""
    recorded: dict[str, int] = field(default_factory=dict)
    joining: Joining | None = None

    @property
    def state(self) -> Acceptor:
        return acceptor.unknown(self.forgotten) if self.stored is None else self.stored


@dataclass
class Proposal:
    number: int
    home: str
    ballot: Ballot
    round: Round
    held: Value | None = None
    """What the ballot's majority is known to hold, by the proposal before; then nothing is prepared."""
    before: Value | None = None
    after: Value | None = None
    over: bool = False


@dataclass
class Dropping:
    """One try to forget the register."""

    ballot: Ballot
    voters: dict[str, int]
    agreed: set[str] = field(default_factory=set)
    agrees: bool = False


class Model:
    def __init__(self, seed: int, size: int, rules: Rules) -> None:
        self.random = Random(seed)
        self.rules = rules
        self.names = tuple("abcde"[:size])
        self.regions = {name: Region(recorded=dict.fromkeys(self.names, 0)) for name in self.names}
        self.known = {name: dict.fromkeys(self.names, 0) for name in self.names}
        self.proposals: list[Proposal] = []
        self.messages: list[tuple[Proposal | Dropping, str, Request, Round]] = []
        self.decided: list[Proposal] = []
        self.forgot = self.top = 0

    def run(self, steps: int) -> bool:
        acts = (self.propose, self.deliver, self.learn, self.drop, self.lose, self.join)
        for _ in range(steps):
            self.random.choices(acts, (2, 70, 12, 4, 0.3, 12))[0]()
        return self.consistent()

    def consistent(self) -> bool:
        """Each decided value continues the one before it, or a deletion came between; revisions grow."""
        chain = sorted(self.decided, key=lambda each: each.ballot)
        for earlier, later_ in pairwise(chain):
            one, other = earlier.after, later_.after
            assert one is not None
            assert other is not None
            if other["rev"] <= one["rev"]:
                return False
            if one["life"] is None or (
                one["life"] == other["life"] and one["made"] == other["made"][: len(one["made"])]
            ):
                continue
            if not any(
                each.after is not None
                and each.after["life"] is None
                and each.before is not None
                and each.before["life"] == one["life"]
                and earlier.ballot < each.ballot <= later_.ballot
                for each in self.proposals
            ):
                return False
        return True

    # -- proposers -------------------------------------------------------------------------------------

    def propose(self) -> None:
        home, number = self.random.choice(self.names), len(self.proposals)
        latest = self.decided[-1] if self.decided else None
        state = Round(dict(self.known[home]))
        if latest is not None and latest.home == home and self.random.random() < 0.5:
            # Its last proposal has promised the next ballot: one round trip. It may do so long afterwards.
            if latest.round.voters != state.voters:
                return
            held = Ballot(latest.ballot.number + 1, latest.ballot.proposer)
            if any(each.ballot == held for each in self.proposals):
                return
            proposal = Proposal(number, home, held, state, held=latest.after)
            self.proposals.append(proposal)
            self._accept(proposal, latest.after)
            return
        self.top += self.random.choice((2, 2, 2, 40))
        # A clock that is behind: its ballots are low, until it hears of higher ones.
        ballot = Ballot(max(2, self.top - self.random.choice((0, 0, 60))), f"{home}/{number}")
        self.proposals.append(proposal := Proposal(number, home, ballot, state))
        self._send(proposal, Prepare("r", ballot), state)

    def _accept(self, proposal: Proposal, before: Value | None) -> None:
        alive = before is not None and before["life"] is not None
        revision = 0 if before is None else before["rev"]
        if alive:
            assert before is not None
            deletes = self.random.random() < 0.6
            made = [] if deletes else [*before["made"], proposal.number]
            after = {"rev": revision + 1, "life": None if deletes else before["life"], "made": made}
        else:
            by_time = proposal.ballot.number * 1000 if self.rules.by_time else 0
            after = {"rev": max(revision + 1, by_time), "life": proposal.number, "made": [proposal.number]}
        proposal.before, proposal.after = before, after
        proposal.round = Round(proposal.round.voters)
        upcoming = Ballot(proposal.ballot.number + 1, proposal.ballot.proposer)
        accept = Accept("r", proposal.ballot, json.dumps(after).encode(), upcoming)
        self._send(proposal, accept, proposal.round)

    def _send(self, proposal: Proposal | Dropping, request: Request, state: Round) -> None:
        self.messages += [(proposal, name, request, state) for name in self.names]

    def deliver(self) -> None:
        if not self.messages:
            return
        at = self.random.randrange(len(self.messages))
        proposal, name, request, sent_in = self.messages[at]
        if self.random.random() > 0.1:
            del self.messages[at]  # else it is repeated later
        if self.random.random() < 0.05:
            return  # it is lost
        answer = self._asked(name, request, sent_in)
        if self.random.random() < 0.05:
            return
        if isinstance(proposal, Dropping):
            self._dropped(proposal, name, request, answer)
        elif not proposal.over and sent_in.voters is proposal.round.voters:
            self._heard(proposal, name, request, answer)

    def _heard(self, proposal: Proposal, name: str, request: Request, answer: Vote | None) -> None:
        if isinstance(request, Accept) == (proposal.after is None):
            return  # of the phase before
        proposal.round = heard(proposal.round, name, answer)
        if answer is None:
            self.known[proposal.home] = later(self.known[proposal.home], self.regions[name].recorded)
        if proposal.round.outcome == "open":
            return
        if proposal.round.outcome != "won" or proposal.after is not None:
            proposal.over = True
            if proposal.round.outcome == "won":
                self.decided.append(proposal)
            return
        found = proposal.round
        row = self.regions[proposal.home].row
        self._accept(proposal, json.loads(found.value) if found.accepted != NEVER and found.value else row)

    # -- forgetting ------------------------------------------------------------------------------------

    def drop(self) -> None:
        home = self.random.choice(self.names)
        state = self.regions[home].state
        if state.accepted == NEVER or json.loads(state.value)["life"] is not None:
            return
        dropping = Dropping(state.accepted, dict(self.known[home]))
        self._send(dropping, Retire("r", state.accepted), Round(dropping.voters))

    def _dropped(self, dropping: Dropping, name: str, request: Request, answer: Vote | None) -> None:
        if answer is None or not answer.granted or isinstance(request, Forget) or dropping.agrees:
            return
        dropping.agreed.add(name)
        if len(dropping.agreed) == (len(self.names) if self.rules.all_agree else len(self.names) // 2 + 1):
            dropping.agrees = True
            self.forgot += 1
            self._send(dropping, Forget("r", dropping.ballot), Round(dropping.voters))

    # -- acceptors and documents -----------------------------------------------------------------------

    def _asked(self, name: str, request: Request, sent_in: Round) -> Vote | None:
        region = self.regions[name]
        if region.joining is not None or outdated(sent_in.voters, region.recorded, name, region.incarnation):
            return None
        before = region.state
        after, answer = vote(before, request)
        if isinstance(request, Forget) and after.accepted == NEVER:
            if region.stored is not None:
                region.stored, region.forgotten = None, max(region.forgotten, self.rules.past(after))
        elif after is not before:
            region.stored = after
        if isinstance(request, Retire) and before.accepted == request.ballot and self.rules.all_show:
            shown = 0 if region.row is None else region.row["rev"]
            return msgspec.structs.replace(answer, granted=shown >= json.loads(before.value)["rev"])
        return answer

    def learn(self) -> None:
        """Some region hears what was decided."""
        if self.decided:
            region, proposal = self.regions[self.random.choice(self.names)], self.random.choice(self.decided)
            assert proposal.after is not None
            if region.row is None or proposal.after["rev"] > region.row["rev"]:
                region.row = proposal.after

    def lose(self) -> None:
        """A disk; but not a second one before the first region has joined anew."""
        if len(self.names) == 1 or any(region.joining is not None for region in self.regions.values()):
            return
        name = self.random.choice(self.names)
        joining = Joining(name, frozenset(self.names))
        self.regions[name] = Region(self.regions[name].incarnation + 1, joining=joining)

    def join(self) -> None:
        for name, region in self.regions.items():
            if region.joining is None:
                continue
            peer = self.random.choice([other for other in self.names if other != name])
            asked = self.regions[peer]
            asked.recorded = later(asked.recorded, {name: region.incarnation})
            if asked.stored is not None:
                region.stored = joined(region.stored or Acceptor(), asked.stored)
            if self.rules.joins_forgotten:
                region.forgotten = max(region.forgotten, asked.forgotten)
            region.recorded = later(region.recorded, asked.recorded)
            seen = region.joining
            region.joining = msgspec.structs.replace(
                seen, read=seen.read | {peer}, voting=seen.voting | {peer}
            )
            if region.joining.enough:
                region.recorded = later(region.recorded, {name: region.incarnation})
                region.joining = None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_register_is_forgotten_without_harm(size: int) -> None:
    forgot = 0
    for seed in range(120):
        model = Model(seed, size, Rules())
        assert model.run(900), seed
        forgot += model.forgot
    assert forgot > 10


BUGS = {
    "nothing is left of what was promised": Rules(past=lambda state: 0),
    "a majority forgets": Rules(all_agree=False),
    "a region's document does not show the deletion yet": Rules(all_show=False),
    "what is created begins at the first revision": Rules(by_time=False),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds(bug: str) -> None:
    assert not all(Model(seed, 3, BUGS[bug]).run(900) for seed in range(2500))
