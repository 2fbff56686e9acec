"""Registers with witnesses: they vote, and drop values that all regions with documents hold.

Messages are lost, repeated and late, regions die for good, and disks are lost. What is decided stays decided, and as
long as a majority lives, one of it can say what that is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import NamedTuple

import msgspec
import pytest

from atoll.causality.types import Ballot
from atoll.consensus.acceptor import (
    NEVER,
    Accept,
    Acceptor,
    Holds,
    Inspect,
    Prepare,
    Request,
    Vote,
    joined,
    released,
    vote,
)
from atoll.consensus.round import Round, heard, majority
from atoll.consensus.voters import Joining, later, outdated


def all_hold(answered: frozenset[str], documents: frozenset[str]) -> bool:
    return answered >= documents


class Rules(NamedTuple):
    """A bug replaces one."""

    enough: Callable[[frozenset[str], frozenset[str]], bool] = all_hold
    """Which regions with documents have to hold a value before a witness drops it."""
    heard: Callable[[Round, str, Vote | None], Round] = heard
    disks_last: bool = False
    """Whether no disk is lost: not a bug, but a kinder world."""
    same_ballot: bool = True
    """Whether what was accepted since the question stays."""


@dataclass
class Region:
    """What is on one region's disk."""

    incarnation: int = 0
    state: Acceptor = field(default_factory=Acceptor)
    recorded: dict[str, int] = field(default_factory=dict)
    joining: Joining | None = None


@dataclass
class Proposal:
    """Appends its own number to the list that the register holds."""

    number: int
    ballot: Ballot
    round: Round
    value: bytes | None = None
    over: bool = False


@dataclass
class Releasing:
    """A witness asks whether its value may go."""

    witness: str
    ballot: Ballot
    voters: dict[str, int]
    hold: frozenset[str] = frozenset()


class Model:
    def __init__(self, seed: int, documents: int, witnesses: int, rules: Rules) -> None:
        self.random = Random(seed)
        self.rules = rules
        self.names = tuple("abcdefg"[: documents + witnesses])
        self.documents = frozenset(self.names[:documents])
        self.regions = {name: Region(recorded=dict.fromkeys(self.names, 0)) for name in self.names}
        self.known = {name: dict.fromkeys(self.names, 0) for name in self.names}
        self.dead: set[str] = set()
        self.messages: list[tuple[Proposal | Releasing, str, Request, Round]] = []
        self.decided: list[list[int]] = []
        self.proposals = self.released = 0
        self.top = 2

    def run(self, steps: int) -> bool:
        acts = (self.propose, self.deliver, self.release, self.lose, self.join, self.die)
        for _ in range(steps):
            self.random.choices(acts, (4, 60, 5, 1, 12, 0.3))[0]()
        longest = max(self.decided, key=len, default=[])
        return all(longest[: len(value)] == value for value in self.decided) and self.readable(longest)

    def readable(self, decided: list[int]) -> bool:
        """Whether every majority of those that vote, and live, can say what was decided last."""
        alive = [
            name for name, each in self.regions.items() if each.joining is None and name not in self.dead
        ]
        for asked in combinations(alive, majority(self.known["a"])):
            found = Round(dict.fromkeys(self.names, 0))
            for name in asked:
                found = self.rules.heard(found, name, vote(self.regions[name].state, Inspect("r"))[1])
            value = json.loads(found.value) if found.value else []
            if found.outcome != "won" or value[: len(decided)] != decided:
                return False
        return True

    # -- proposers, which are regions with documents ---------------------------------------------------

    def propose(self) -> None:
        home = self.random.choice(sorted(self.documents))
        self.top += 2
        self.proposals += 1
        ballot = Ballot(self.top, f"{home}/{self.proposals}")
        proposal = Proposal(self.proposals, ballot, Round(dict(self.known[home])))
        self._send(proposal, Prepare("r", ballot), proposal.round)

    def _send(self, sender: Proposal | Releasing, request: Request, state: Round) -> None:
        self.messages += [(sender, name, request, state) for name in self.names]

    def deliver(self) -> None:
        if not self.messages:
            return
        at = self.random.randrange(len(self.messages))
        sender, name, request, sent_in = self.messages[at]
        if self.random.random() > 0.1:
            del self.messages[at]  # else it is repeated later
        if self.random.random() < 0.05 or name in self.dead:
            return  # it is lost
        answer = self._asked(name, request, sent_in.voters)
        if self.random.random() < 0.05:
            return
        if isinstance(sender, Releasing):
            self._told(sender, name, answer)
        elif not sender.over and sent_in.voters is sender.round.voters:
            self._heard(sender, name, request, answer)

    def _heard(self, proposal: Proposal, name: str, request: Request, answer: Vote | None) -> None:
        home = proposal.ballot.proposer[0]
        if isinstance(request, Accept) == (proposal.value is None) or home in self.dead:
            return
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
        proposal.round = Round(dict(proposal.round.voters))
        upcoming = Ballot(proposal.ballot.number + 1, proposal.ballot.proposer)
        self._send(proposal, Accept("r", proposal.ballot, proposal.value, upcoming), proposal.round)

    # -- witnesses -------------------------------------------------------------------------------------

    def release(self) -> None:
        name = self.random.choice(sorted(set(self.names) - self.documents))
        state = self.regions[name].state
        if name not in self.dead and state.accepted != NEVER and not state.elsewhere:
            releasing = Releasing(name, state.accepted, dict(self.known[name]))
            self._send(releasing, Holds("r", state.accepted), Round(releasing.voters))

    def _told(self, releasing: Releasing, name: str, answer: Vote | None) -> None:
        witness = self.regions[releasing.witness]
        if answer is None:
            self.known[releasing.witness] = later(self.known[releasing.witness], self.regions[name].recorded)
        if answer is None or not answer.granted or name not in self.documents:
            return
        releasing.hold |= {name}
        current = all(releasing.voters[each] == witness.recorded.get(each) for each in self.names)
        same = witness.state.accepted == releasing.ballot or not self.rules.same_ballot
        if (
            self.rules.enough(releasing.hold, self.documents)
            and releasing.witness not in self.dead
            and current
            and same
        ):
            witness.state = released(witness.state)
            self.released += 1

    # -- acceptors -------------------------------------------------------------------------------------

    def _asked(self, name: str, request: Request, voters: dict[str, int]) -> Vote | None:
        region = self.regions[name]
        if region.joining is not None or outdated(voters, region.recorded, name, region.incarnation):
            return None
        region.state, answer = vote(region.state, request)
        return answer

    def _room(self) -> int:
        """So many regions may yet fail beside those that have."""
        joining = {name for name, each in self.regions.items() if each.joining is not None}
        return len(self.names) - majority(self.known["a"]) - len(self.dead | joining)

    def die(self) -> None:
        """For good."""
        if self._room() > 0:
            self.dead.add(self.random.choice(self.names))

    def lose(self) -> None:
        """A disk."""
        name = self.random.choice(self.names)
        if (
            self.rules.disks_last
            or self._room() <= 0
            or name in self.dead
            or self.regions[name].joining is not None
        ):
            return
        joining = Joining(name, frozenset(self.names))
        self.regions[name] = Region(self.regions[name].incarnation + 1, joining=joining)

    def join(self) -> None:
        for name, region in self.regions.items():
            if region.joining is None or name in self.dead:
                continue
            peer = self.random.choice([other for other in self.names if other != name])
            asked = self.regions[peer]
            if peer in self.dead:
                continue
            asked.recorded = later(asked.recorded, {name: region.incarnation})
            region.state = joined(region.state, asked.state)
            region.recorded = later(region.recorded, asked.recorded)
            seen = region.joining
            votes = {peer} if asked.joining is None else set()
            region.joining = msgspec.structs.replace(
                seen, read=seen.read | {peer}, voting=seen.voting | votes
            )
            if region.joining.enough:
                region.recorded = later(region.recorded, {name: region.incarnation})
                region.joining = None


SHAPES = [(2, 1), (3, 1), (3, 2), (4, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_decided_is_never_lost(shape: tuple[int, int]) -> None:
    decided = dropped = 0
    for seed in range(200):
        model = Model(seed, *shape, Rules())
        assert model.run(400), (seed, model.decided)
        decided += len(model.decided)
        dropped += model.released
    assert decided > 300
    assert dropped > 100


# -- the model finds the bug -----------------------------------------------------------------------------


def forgets_ballots(state: Round, region: str, answer: Vote | None) -> Round:
    """A ballot whose value is elsewhere is taken for none."""
    if answer is not None and answer.elsewhere:
        answer = msgspec.structs.replace(answer, elsewhere=False, accepted=NEVER)
    return heard(state, region, answer)


BUGS = {
    "values are dropped that one region holds": Rules(enough=lambda hold, documents: bool(hold)),
    "values are dropped that no region has to hold": Rules(enough=lambda hold, documents: True),
    "a later value is dropped with the one that was asked for": Rules(same_ballot=False),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds(bug: str) -> None:
    assert not all(Model(seed, 2, 1, BUGS[bug]).run(400) for seed in range(3000))


def test_the_model_finds_proposers_that_do_not_wait_for_a_dropped_value() -> None:
    """With early drops a majority may lack a value. It must not take an earlier one for it, though."""
    early = Rules(enough=lambda hold, documents: True, disks_last=True)
    chains = [Model(seed, 2, 1, early._replace(heard=forgets_ballots)) for seed in range(300)]
    assert not all(_one_order(model) for model in chains)
    chains = [Model(seed, 2, 1, early) for seed in range(300)]
    assert all(_one_order(model) for model in chains)


def _one_order(model: Model) -> bool:
    """Whether what was decided stayed so, be it readable or not."""
    model.run(400)
    longest = max(model.decided, key=len, default=[])
    return all(longest[: len(value)] == value for value in model.decided)
