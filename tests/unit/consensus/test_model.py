"""A register under lost, repeated and reordered messages, and under lost disks: what is decided is never lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import msgspec
import pytest

from atoll.causality.types import Ballot
from atoll.consensus.acceptor import NEVER, Accept, Acceptor, Prepare, Request, Vote, joined, vote
from atoll.consensus.round import Round, heard
from atoll.consensus.voters import Joining, later, outdated

Votes = Callable[[Acceptor, Request], tuple[Acceptor, Vote]]


class Rules(NamedTuple):
    """The pure parts; a bug replaces one."""

    vote: Votes = vote
    heard: Callable[[Round, str, Vote | None], Round] = heard
    outdated: Callable[..., bool] = outdated
    joins: bool = True
    """Whether an acceptor that lost its disk joins anew before it votes."""
    unique: bool = True
    """Whether each proposal has a ballot of its own."""


@dataclass
class Region:
    """One region's acceptor, with what is on its disk."""

    incarnation: int = 0
    state: Acceptor = field(default_factory=Acceptor)
    recorded: dict[str, int] = field(default_factory=dict)
    joining: Joining | None = None


@dataclass
class Proposal:
    """A proposer's one attempt; it appends its own number to the list that the register holds."""

    number: int
    ballot: Ballot
    next: Ballot
    round: Round
    value: bytes | None = None
    over: bool = False


class Model:
    """Runs one random history."""

    def __init__(self, seed: int, size: int, rules: Rules) -> None:
        self.random = Random(seed)
        self.rules = rules
        self.names = tuple("abcde"[:size])
        self.regions = {name: Region(recorded=dict.fromkeys(self.names, 0)) for name in self.names}
        self.known = {name: dict.fromkeys(self.names, 0) for name in self.names}
        self.proposals: list[Proposal] = []
        self.messages: list[tuple[Proposal, str, Request, Round]] = []
        self.decided: list[list[int]] = []
        self.top = 0

    def run(self, steps: int) -> bool:
        """Whether all decided values are prefixes of the longest one."""
        for _ in range(steps):
            act = self.random.choices((self.propose, self.deliver, self.lose, self.join), (4, 60, 1, 12))[0]
            act()
        longest = max(self.decided, key=len, default=[])
        return all(longest[: len(value)] == value for value in self.decided)

    # -- proposers -------------------------------------------------------------------------------------

    def propose(self) -> None:
        home, number = self.random.choice(self.names), len(self.proposals)
        self.top += self.random.randint(0, 2) if not self.rules.unique else 2
        name = f"{home}/{number}" if self.rules.unique else "a/0"
        ballot = Ballot(self.top, name)
        state = Round(dict(self.known[home]))
        self.proposals.append(Proposal(number, ballot, Ballot(self.top + 1, name), state))
        self._send(self.proposals[-1], Prepare("r", ballot))

    def _send(self, proposal: Proposal, request: Request) -> None:
        for name in self.names:
            self.messages.append((proposal, name, request, proposal.round))

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
        if self.random.random() < 0.05 or proposal.over or sent_in.voters is not proposal.round.voters:
            return
        if isinstance(request, Accept) == (proposal.value is None):
            return  # of the phase before
        home = proposal.ballot.proposer[0]
        proposal.round = self.rules.heard(proposal.round, name, answer)
        if answer is None:
            self.known[home] = later(self.known[home], self.regions[name].recorded)
        if proposal.round.outcome == "open":
            return
        if proposal.round.outcome != "won" or proposal.value is not None:
            proposal.over = True
            if proposal.round.outcome == "won":
                self.decided.append(json.loads(proposal.value or b""))
            return
        before = json.loads(proposal.round.value) if proposal.round.value else []
        proposal.value = json.dumps([*before, proposal.number]).encode()
        proposal.round = Round(proposal.round.voters)
        self._send(proposal, Accept("r", proposal.ballot, proposal.value, proposal.next))

    # -- acceptors -------------------------------------------------------------------------------------

    def _asked(self, name: str, request: Request, sent_in: Round) -> Vote | None:
        region = self.regions[name]
        if region.joining is not None and self.rules.joins:
            return None
        if self.rules.outdated(sent_in.voters, region.recorded, name, region.incarnation):
            return None
        region.state, answer = self.rules.vote(region.state, request)
        return answer

    def lose(self) -> None:
        """A disk; but not a second one before the first region has joined anew."""
        if len(self.names) == 1 or any(region.joining is not None for region in self.regions.values()):
            return
        name = self.random.choice(self.names)
        before = self.regions[name].incarnation
        after = before + self.rules.joins
        members = frozenset(self.names)
        self.regions[name] = Region(after, recorded={}, joining=Joining(name, members))
        if not self.rules.joins:
            self.regions[name] = Region(after, recorded=dict.fromkeys(self.names, 0))

    def join(self) -> None:
        for name, region in self.regions.items():
            if region.joining is None:
                continue
            peer = self.random.choice([other for other in self.names if other != name])
            asked = self.regions[peer]
            asked.recorded = later(asked.recorded, {name: region.incarnation})
            region.state = joined(region.state, asked.state)
            region.recorded = later(region.recorded, asked.recorded)
            seen = region.joining
            region.joining = msgspec.structs.replace(
                seen, read=seen.read | {peer}, voting=seen.voting | {peer}
            )
            if region.joining.enough:
                region.recorded = later(region.recorded, {name: region.incarnation})
                region.joining = None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_what_is_decided_is_never_lost(size: int) -> None:
    decided = 0
    for seed in range(150):
        model = Model(seed, size, Rules())
        assert model.run(400), (seed, model.decided)
        decided += len(model.decided)
    assert decided > 150


# -- the model finds the bug -----------------------------------------------------------------------------


def no_promise(state: Acceptor, request: Request) -> tuple[Acceptor, Vote]:
    """What is promised is not kept."""
    after, answer = vote(msgspec.structs.replace(state, promised=NEVER), request)
    return msgspec.structs.replace(after, promised=NEVER), answer


def forgets_what_it_accepted(state: Acceptor, request: Request) -> tuple[Acceptor, Vote]:
    after, answer = vote(state, request)
    if isinstance(request, Prepare):
        answer = msgspec.structs.replace(answer, accepted=NEVER, value=None)
    return after, answer


def decides_early(state: Round, region: str, answer: Vote | None) -> Round:
    """One acceptor is enough."""
    after = heard(state, region, answer)
    return msgspec.structs.replace(after, granted=frozenset(after.voters)) if after.granted else after


BUGS = {
    "promises are not kept": Rules(vote=no_promise),
    "what was accepted is not told": Rules(vote=forgets_what_it_accepted),
    "less than a majority decides": Rules(heard=decides_early),
    "votes of a former incarnation count": Rules(outdated=lambda *_: False),
    "a lost disk votes on": Rules(joins=False),
    "ballots are used twice": Rules(unique=False),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds(bug: str) -> None:
    assert not all(Model(seed, 3, BUGS[bug]).run(400) for seed in range(1500))
