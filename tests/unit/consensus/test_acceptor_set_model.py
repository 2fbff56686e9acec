"""A register whose set of acceptors changes, under lost and late messages and lost disks: nothing decided is lost."""

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
from atoll.consensus import acceptor, acceptor_set
from atoll.consensus.acceptor import NEVER, Accept, Acceptor, Inspect, Prepare, Request, Vote, joined, vote
from atoll.consensus.acceptor_set import AcceptorSet
from atoll.consensus.round import Round, heard, majority
from atoll.consensus.voters import Joining, later, outdated

NAMES = "abcdef"
NONE = AcceptorSet(0, ())
"""Of a region that has not heard of any."""
DELETED = "deleted"


class Rules(NamedTuple):
    """A bug replaces one."""

    settles: bool = True
    """Whether a change waits until the one before is settled."""
    enough_moved: Callable[[AcceptorSet, set[str]], bool] = AcceptorSet.enough_moved
    by_incarnation: bool = True
    """Whether the moves of incarnations that are lost do not count."""
    reads_former: bool = True
    """Whether who joins anew reads enough of the former set, too."""
    by_epoch: bool = True
    """Whether acceptors refuse what counts on an earlier set."""
    decided: bool = True
    """Whether a majority decides what follows a set."""
    single: bool = True
    """Whether one region is changed at a time."""
    clears: bool = True
    """Whether a region that comes back has dropped what it held."""
    begins_anew: bool = True
    """Whether who joins begins anew when it hears of another set."""
    drops_settled: bool = True
    """Whether registers are dropped only while the set is settled."""
    knows_entrant: bool = True
    """Whether an entrant that has lost its disk joins anew."""


@dataclass
class Region:
    """What is on one region's disk."""

    set: AcceptorSet
    incarnation: int = 0
    states: dict[str, Acceptor] = field(default_factory=dict)
    recorded: dict[str, int] = field(default_factory=dict)
    forgotten: int = 0
    joining: Joining | None = None
    moved: int = 0
    """The epoch that it has moved to."""


@dataclass
class Proposal:
    home: str
    register: str
    ballot: Ballot
    set: AcceptorSet
    round: Round
    change: Callable[[bytes | None], bytes | None]
    """What follows from the value; None where there is nothing to do."""
    decided: Callable[[bytes], None]
    phase: type[Request] = Prepare
    value: bytes = b""
    over: bool = False


class Model:
    def __init__(self, seed: int, size: int, rules: Rules) -> None:
        self.random = Random(seed)
        self.rules = rules
        first = AcceptorSet(1, tuple(NAMES[:size]))
        self.sets = {1: first}
        self.regions = {name: Region(NONE) for name in NAMES}
        for name in first.members:
            self.regions[name] = Region(first, recorded=dict.fromkeys(first.members, 0))
        self.known = {name: dict.fromkeys(NAMES, 0) for name in NAMES}
        self.messages: list[tuple[Proposal, type[Request], str, Request]] = []
        self.moves: set[tuple[int, str, int]] = set()
        """Epoch, region, incarnation."""
        self.proposed: list[tuple[Ballot, list[Any]]] = []
        self.decided: dict[Ballot, list[Any]] = {}
        self.lost: set[str] = set()
        self.slow: set[str] = set()
        self.held: dict[str, tuple[AcceptorSet, dict[str, int], Ballot, bytes]] = {}
        self.top = self.number = self.latest = self.drops = 0
        self.forked = False

    def run(self, steps: int) -> bool:
        """Whether there is one chain of sets, and each decided value goes on from the one before."""
        acts = (
            (self.propose, 3),
            (self.deliver, 70),
            (self.change, 3),
            (self.move, 6),
            (self.settle, 3),
            (self.lose, 0.7),
            (self.join, 12),
            (self.tell, 3),
            (self.drop, 1),
            (self.slow_down, 0.5),
        )
        steps_, weights = zip(*acts, strict=True)
        for _ in range(steps):
            self.random.choices(steps_, weights)[0]()
        return not self.forked and all(self._follows(*each) for each in pairwise(sorted(self.decided)))

    def _follows(self, earlier: Ballot, later_: Ballot) -> bool:
        """Whether the one value goes on from the other, or the register was deleted between."""
        one, other = self.decided[earlier], self.decided[later_]
        return other[: len(one)] == one or (
            all(other[0] != self.decided[ballot][0] for ballot in self.decided if ballot < later_)
            and any(
                value[-1] == DELETED and value[: len(one)] == one
                for ballot, value in self.proposed
                if earlier <= ballot < later_
            )
        )

    # -- what is proposed ------------------------------------------------------------------------------

    def propose(self) -> None:
        self.propose_at(self.random.choice(NAMES))

    def propose_at(self, home: str) -> None:
        """Append a number to the register; by a held ballot if there is one."""
        number = self.number
        self.number += 1

        def change(value: bytes | None) -> bytes:
            before = json.loads(value or b"[]")
            if before and before[-1] != DELETED and self.random.random() < 0.2:
                return json.dumps([*before, DELETED]).encode()
            return json.dumps([number] if DELETED in before else [*before, number]).encode()

        proposal = self._proposal(home, "r", change, lambda value: None)
        held = self.held.pop(home, None)
        if held is None or self.random.random() < 0.3:
            self._send(proposal, Prepare("r", proposal.ballot))
            return
        set, known, ballot, value = held
        same = set == proposal.set if self.rules.by_epoch else set.members == proposal.set.members
        if same and known == proposal.round.voters:
            proposal.ballot = ballot
            self._accept(proposal, change(value))
        else:
            self._send(proposal, Prepare("r", proposal.ballot))

    def change(self) -> None:
        home = self.random.choice(NAMES)
        region, current = self.regions[home], self.regions[home].set
        if region.joining is not None or not (current.settled or not self.rules.settles):
            return
        if current == NONE:
            return
        if home not in current.members:
            self.enter(home)
            return
        if len(current.members) > 1:
            following = current.without(self.random.choice(current.members))
            if not self.rules.single and len(following.members) > 1:
                gone = self.random.choice(following.members)
                following = msgspec.structs.replace(
                    following.without(gone), epoch=current.epoch + 1, before=current.members
                )
        else:
            return
        self._follow(home, following)

    def enter(self, home: str) -> None:
        region = self.regions[home]
        if self.rules.clears:
            region.states = {}
        self._follow(home, region.set.having(home, region.incarnation))

    def _follow(self, home: str, following: AcceptorSet) -> None:
        data = acceptor_set.encoded(following)

        def decided(value: bytes) -> None:
            found = acceptor_set.decoded(value)
            self.forked |= self.sets.setdefault(found.epoch, found) != found
            self.latest = max(self.latest, found.epoch)
            self._record(home, found)

        if not self.rules.decided:
            self.sets[following.epoch] = following
            self._record(home, following)
            return
        current = self.regions[home].set
        proposal = self._proposal(home, current.register, lambda value: value or data, decided)
        self._send(proposal, Prepare(current.register, proposal.ballot))

    def move(self) -> None:
        self.move_at(self.random.choice(NAMES))

    def move_at(self, home: str) -> None:
        """See to it that what is held here is held by a majority of the new set."""
        region, current = self.regions[home], self.regions[home].set
        if current.settled or home not in current.before or region.moved == current.epoch or region.joining:
            return
        incarnation = region.incarnation

        def moved(_: bytes) -> None:
            if region is self.regions[home] and region.set == current:
                region.moved = current.epoch
                self.moves.add((current.epoch, home, incarnation))

        if region.states.get("r", Acceptor()).accepted == NEVER:
            moved(b"")
            return
        proposal = self._proposal(home, "r", lambda value: value, moved)
        proposal.phase = Inspect
        self._send(proposal, Inspect("r"))

    def settle(self) -> None:
        self.settle_at(self.random.choice(NAMES))

    def settle_at(self, home: str) -> None:
        current = self.regions[home].set
        if current.settled:
            return
        known = self.known[home]
        moved = {
            name
            for epoch, name, incarnation in sorted(self.moves)
            if epoch == current.epoch and (known.get(name) == incarnation or not self.rules.by_incarnation)
        }
        if self.rules.enough_moved(current, moved):
            self._follow(home, current.all_moved())

    def _proposal(
        self,
        home: str,
        register: str,
        change: Callable[[bytes | None], bytes | None],
        decided: Callable[[bytes], None],
    ) -> Proposal:
        current = self.regions[home].set
        self.top += self.random.choice((2, 2, 2, 20))
        number = max(2, self.top - self.random.choice((0, 0, 0, 30)))
        ballot = Ballot(number, f"{home}/{self.top}")
        state = Round({name: self.known[home].get(name, -1) for name in current.members})
        return Proposal(home, register, ballot, current, state, change, decided)

    def _send(self, proposal: Proposal, request: Request) -> None:
        targets = set(proposal.set.members)
        self.messages += [(proposal, type(request), name, request) for name in sorted(targets)]

    def _accept(self, proposal: Proposal, value: bytes | None) -> None:
        if value is None:
            proposal.over = True
            return
        proposal.value, proposal.phase = value, Accept
        if proposal.register == "r":
            self.proposed.append((proposal.ballot, json.loads(value)))
        proposal.round = Round(proposal.round.voters)
        upcoming = Ballot(proposal.ballot.number + 1, proposal.ballot.proposer)
        self._send(proposal, Accept(proposal.register, proposal.ballot, value, upcoming))

    def drop(self) -> None:
        """All acceptors drop a deleted register: see `test_forgetting_model` for how they come to agree."""
        latest = self.sets[max(self.sets)]
        if not latest.settled and self.rules.drops_settled:
            return
        all_ = [self.regions[name] for name in latest.members]
        states = [region.states.get("r", Acceptor()) for region in all_]
        accepted = {state.accepted: state.value for state in states if state.accepted != NEVER}
        if len(accepted) != 1 or json.loads(*accepted.values())[-1] != DELETED:
            return
        if all(region.set == latest and region.joining is None for region in all_):
            self.drops += 1
            for region, state in zip(all_, states, strict=True):
                region.states.pop("r", None)
                region.forgotten = max(region.forgotten, acceptor.past(state))

    # -- messages --------------------------------------------------------------------------------------

    def deliver(self) -> None:
        if not self.messages:
            return
        at = self.random.randrange(len(self.messages))
        proposal, phase, name, request = self.messages[at]
        if name in self.slow and self.random.random() < 0.97:
            return
        if self.random.random() > 0.1:
            del self.messages[at]  # else it is repeated later
        if self.random.random() < 0.05:
            return  # it is lost
        answer = self._asked(name, request, proposal)
        if self.random.random() > 0.05:
            self._answered(proposal, phase, name, answer)

    def _answered(self, proposal: Proposal, phase: type[Request], name: str, answer: Vote | None) -> None:
        if proposal.over or phase is not proposal.phase:
            return
        if answer is None:
            self._told(proposal.home, name)
        proposal.round = heard(proposal.round, name, answer)
        if proposal.phase is Inspect:
            self._inspected(proposal)
        elif proposal.round.outcome == "won" and proposal.phase is Prepare:
            found = proposal.round
            self._accept(proposal, proposal.change(found.value if found.accepted != NEVER else None))
        elif proposal.round.outcome != "open":
            proposal.over = True
            if proposal.round.outcome == "won":
                if proposal.register == "r":
                    self.decided[proposal.ballot] = json.loads(proposal.value)
                proposal.decided(proposal.value)
                upcoming = Ballot(proposal.ballot.number + 1, proposal.ballot.proposer)
                if proposal.register == "r":
                    held = (proposal.set, dict(proposal.round.voters), upcoming, proposal.value)
                    self.held[proposal.home] = held

    def _inspected(self, proposal: Proposal) -> None:
        found = proposal.round
        if found.decided:
            proposal.over = True
            proposal.decided(b"")
        elif found.complete or len(found.granted) >= majority(found.voters):
            proposal.phase, proposal.round = Prepare, Round(found.voters)
            self._send(proposal, Prepare("r", proposal.ballot))

    def _asked(self, name: str, request: Request, proposal: Proposal) -> Vote | None:
        region = self.regions[name]
        if self.rules.by_epoch:
            self._record(name, proposal.set)
            if proposal.set != region.set or name not in region.set.members:
                return None
        elif region.set.epoch < proposal.set.epoch:
            self._record(name, proposal.set)
        if region.joining is not None or outdated(
            proposal.round.voters, region.recorded, name, region.incarnation
        ):
            return None
        unknown = acceptor.unknown(region.forgotten if request.register == "r" else 0)
        state, answer = vote(region.states.get(request.register, unknown), request)
        region.states[request.register] = state
        return answer

    def _record(self, name: str, found: AcceptorSet) -> None:
        region = self.regions[name]
        if found.epoch <= region.set.epoch:
            return
        region.set = found
        entrant = found.entrant
        if name not in found.members:
            region.joining = None
            region.recorded.pop(name, None)
        elif (
            entrant is not None
            and entrant[0] == name
            and (entrant[1] == region.incarnation or not self.rules.knows_entrant)
        ):
            region.joining = None
            region.recorded = later(region.recorded, {name: region.incarnation})
        elif region.recorded.get(name) != region.incarnation and region.joining is None:
            region.joining = Joining(name, frozenset(found.members))
        if region.joining is not None:  # it begins anew
            if self.rules.begins_anew:
                region.states = {}
            before = frozenset(found.before) if self.rules.reads_former else frozenset()
            region.joining = Joining(name, frozenset(found.members), before, frozenset(NAMES))

    def _told(self, home: str, name: str) -> None:
        region = self.regions[name]
        self.known[home] = later(self.known[home], region.recorded)
        self._record(home, region.set)

    def tell(self) -> None:
        home = self.random.choice(NAMES)
        if home not in self.slow:
            self._told(home, self.random.choice(NAMES))

    def slow_down(self) -> None:
        """Messages to some regions take longer than to others."""
        self.slow = set(self.random.sample(NAMES, self.random.choice((0, 1, 1, 2))))

    # -- disks -----------------------------------------------------------------------------------------

    def lose(self) -> None:
        """A disk; but of the regions that may hold something alone, no second one before the first has joined anew."""
        latest = self.sets[max(self.sets)]
        concerned = {*latest.members, *latest.before}
        self.lost = {
            name for name in self.lost & concerned if name not in latest.members or not self._votes(name)
        }
        for each in self.regions.values():
            concerned |= {*each.set.members, *each.set.before} if each.set.epoch + 2 > latest.epoch else set()
        name = self.random.choice(NAMES)
        if name in concerned and (self.lost or len(latest.members) == 1 or latest.before == (name,)):
            return
        if name in concerned:
            self.lost.add(name)
        self.lose_at(name)

    def lose_at(self, name: str) -> None:
        before = self.regions[name]
        self.regions[name] = Region(
            NONE, before.incarnation + 1, joining=Joining(name, frozenset(), named=frozenset(NAMES))
        )

    def _votes(self, name: str) -> bool:
        region = self.regions[name]
        return region.joining is None and region.recorded.get(name) == region.incarnation

    def join(self) -> None:
        for name, region in self.regions.items():
            if region.joining is not None:
                self.join_by(name, self.random.choice([other for other in NAMES if other != name]))

    def join_by(self, name: str, peer: str) -> None:
        """Who joins anew reads a peer."""
        region, asked = self.regions[name], self.regions[peer]
        self._record(name, asked.set)
        if region.joining is None:
            return
        if name not in region.set.members:
            region.joining = None if region.set != NONE else region.joining
            return
        self._record(peer, region.set)
        asked.recorded = later(asked.recorded, {name: region.incarnation})
        if peer in (*region.set.members, *region.set.before):
            for register, state in asked.states.items():
                region.states[register] = joined(region.states.get(register, Acceptor()), state)
        region.forgotten = max(region.forgotten, asked.forgotten)
        known = {other: each for other, each in asked.recorded.items() if other != name}
        region.recorded = later(region.recorded, known)
        seen = region.joining
        voting = seen.voting if asked.joining is not None else seen.voting | {peer}
        region.joining = msgspec.structs.replace(seen, read=seen.read | {peer}, voting=voting)
        if region.joining.enough:
            region.recorded = later(region.recorded, {name: region.incarnation})
            region.joining = None

    def propose_until_decided(self, home: str, *others: str) -> None:
        """Its first ballots may be refused, or count on what has changed."""
        before = len(self.decided)
        while len(self.decided) == before:
            self.propose_at(home)
            self.reach(home, *others)

    def reach(self, *names: str) -> None:
        """All messages to these arrive, and what follows from them; the others are lost."""
        while self.messages:
            proposal, phase, name, request = self.messages.pop(0)
            if name in names:
                self._answered(proposal, phase, name, self._asked(name, request, proposal))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_what_is_decided_is_never_lost(size: int) -> None:
    decided = epochs = 0
    for seed in range(100):
        model = Model(seed, size, Rules())
        assert model.run(1500), (seed, model.sets, model.decided)
        decided += len(model.decided)
        epochs += model.latest
    assert decided > 150
    assert epochs > 300


BUGS = {
    "a change does not wait for the one before": (Rules(settles=False), 0),
    "one region that moved is enough": (Rules(enough_moved=lambda _, moved: bool(moved)), 560),
    "who joins reads the new set only": (Rules(reads_former=False), 0),
    "acceptors vote for what counts on an earlier set": (Rules(by_epoch=False), 0),
    "who changes a set asks nobody": (Rules(decided=False), 0),
    "two regions change at once": (Rules(single=False), 0),
    "who comes back holds what it held": (Rules(clears=False), 400),
    "who joins takes over from a set that is over": (Rules(begins_anew=False), 1100),
    "registers are dropped during a change": (Rules(drops_settled=False), 0),
    "an entrant that lost its disk votes": (Rules(knows_entrant=False), 0),
}
"""Rules without one, and the seed from which it is looked for."""


@pytest.mark.parametrize("rules", [Rules(), Rules(by_incarnation=False)])
def test_what_a_lost_disk_has_moved_does_not_count(rules: Rules) -> None:
    """Too rare for chance: a region moves, loses its disk, and joins anew by two that know nothing of the change."""
    model = Model(0, 3, rules)
    model._told("d", "a")
    model.enter("d")
    model.reach("a", "b", "c", "d")  # decided, and only d knows
    model._told("a", "d")
    model.move_at("a")
    model.lose_at("a")
    model.join_by("a", "b")
    model.join_by("a", "c")
    model.propose_until_decided("a", "b")  # in the former set
    model._told("c", "d")
    model.move_at("c")
    for name in "abcd":
        model._told("d", name)
    for _ in range(3):
        model.settle_at("d")
        model.reach("b", "c", "d")
    assert (model.latest == 3) is not rules.by_incarnation
    if model.latest == 3:  # then the value is lost
        model._told("c", "d")
        while model.latest == 3:
            model._follow("c", model.regions["c"].set.without("b"))
            model.reach("a", "c", "d")
        model.propose_until_decided("c", "d")
        assert not model.run(0)


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds(bug: str) -> None:
    rules, first = BUGS[bug]
    seeds = range(first, first + 1500)
    assert not all(Model(seed, size, rules).run(1500) for seed in seeds for size in (2, 3, 4))
