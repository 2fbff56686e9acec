"""Changes whose acceptors decide, as a majority of regions is configured: see `consensus.acceptor_set`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.consensus import acceptor, acceptor_set
from atoll.consensus.acceptor import NEVER, Acceptor, Inspect
from atoll.consensus.acceptor_set import SETS, AcceptorSet, Counted
from atoll.consensus.round import majority
from atoll.errors import AtollError, InvalidOperation, RegionLeft
from atoll.region.joining import Joiner
from atoll.region.node_leases import NodeLeases
from atoll.region.proposer import Proposer
from atoll.region.site import Site
from atoll.region.voting import ACCEPTORS, REGISTERS, VOTERS
from atoll.region.write_once import WriteOnce
from atoll.replication.messages import AcceptorsCall, AcceptorsReply
from atoll.store.port import States, View

_EVERY_S: Final = 1.0
_AT_ONCE: Final = 64


class _Leave(NamedTuple):
    """A step: acceptors that are counted no more forget that they have voted, so that they may begin anew."""

    own: str

    def want(self, wants: Wants) -> None:
        wants.states += [ACCEPTORS, (VOTERS, self.own)]

    def perform(self, batch: Batch, view: View) -> None:
        stored = view.states.get(ACCEPTORS)
        if stored is not None and self.own not in acceptor_set.decoded(stored).members:
            batch.pending.states[VOTERS, self.own] = None


class AcceptorSets:
    """Of one node. `run` it."""

    def __init__(self, site: Site, store: States, proposer: Proposer, leases: NodeLeases) -> None:
        self._site = site
        self._store = store
        self._group_commit = proposer.writes.group_commit
        self._voting = proposer.voting
        self._box = proposer.box
        self.joiner = Joiner(site, store, self._group_commit, self._voting, leases)
        self._registers = WriteOnce(site, self._box, f"{site.name}/{site.random.getrandbits(64):x}")
        self._moved: tuple[int, int | None] = (0, None)
        """The epoch that this region has moved to, and the incarnation that has."""

    def answer(self, call: AcceptorsCall) -> AcceptorsReply:
        """A peer asks."""
        self._voting.hear(call.set)
        epoch, incarnation = self._moved
        if incarnation is None or incarnation != self._voting.incarnation:
            return AcceptorsReply(self._voting.set, self._voting.named, 0, -1)
        return AcceptorsReply(self._voting.set, self._voting.named, epoch, incarnation)

    async def decide_alone(self) -> AcceptorSet:
        """Have this region's acceptor decide alone, since a majority is lost for good: what only they held is lost.

        Raises InvalidOperation while a majority answers, where this region has no promises to keep, and if it has left.
        """
        voting, current, own = self._voting, self._voting.set, self._site.name
        if current is None or own not in current.members or not voting.keeps_promises:
            raise InvalidOperation(
                f"{own} does not vote, so it does not know what was decided; choose another region"
            )
        found, alone = await self._answers(current), current.alone(own)
        for each in found.values():
            if isinstance(each, RegionLeft):
                raise InvalidOperation(f"{each.message}: it is for the others to decide")
        answering = sorted({own, *_replies(found)} & {*current.members})
        if 2 * len(answering) > len(current.members):
            raise InvalidOperation(
                f"{', '.join(answering)} answer, and are a majority of {', '.join(current.members)}: take a lost region"
                " out of atoll.toml, and they remove it"
            )
        await voting.adopt(alone)
        await self._asked(alone)
        return alone

    async def run(self) -> None:
        """For ever: acceptors here join anew, and the set of all follows what regions are configured to count."""
        await asyncio.gather(self.joiner.run(), self._follow_files())

    async def _follow_files(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S * (0.5 + self._site.random.random()))
            current = self._voting.set
            if current is None or (current.settled and {*self._voting.named} == {*current.members}):
                continue
            with contextlib.suppress(AtollError, msgspec.DecodeError):
                await self.step(current)

    async def step(self, current: AcceptorSet) -> None:
        """Once. Raises what the store raises, msgspec.DecodeError."""
        voting, own = self._voting, self._site.name
        replies = await self._asked(current)
        if voting.set != current:
            return
        if own in current.before and self._moved != (current.epoch, voting.incarnation):
            await self._move(current)
        replies[own] = self.answer(AcceptorsCall(current))
        counted, incarnation = voting.counted(), self._voting.numbering()
        if counted.set != current or incarnation is None:
            return
        if not current.settled:
            moved = [region for region, reply in replies.items() if _has_moved(region, reply, counted)]
            if current.enough_moved(moved):
                await self._follow(counted, current.all_moved())
            return
        files = {region: reply.named for region, reply in replies.items()}
        following = acceptor_set.wanted(current, files, own, incarnation)
        if following is None:
            return
        if own not in current.members:
            await voting.adopt(current)
            await self._group_commit.commit(_Leave(own))
            await voting.reload()
            await self.joiner.clear(incarnation)
        await self._follow(counted, following)

    async def _asked(self, current: AcceptorSet) -> dict[str, AcceptorsReply]:
        """Region → what it says. All hear of the set."""
        replies = _replies(await self._answers(current))
        for reply in replies.values():
            if reply.set is not None:
                self._voting.hear(reply.set)
        return replies

    async def _answers(self, current: AcceptorSet) -> dict[str, AcceptorsReply | AtollError]:
        peers = sorted({*current.members, *current.before, *self._voting.named} - {self._site.name})
        found = await asyncio.gather(*(self._ask(peer, current) for peer in peers))
        return dict(zip(peers, found, strict=True))

    async def _ask(self, peer: str, current: AcceptorSet) -> AcceptorsReply | AtollError:
        try:
            return await self._site.ask(peer, AcceptorsCall(current), AcceptorsReply)
        except AtollError as error:
            return error

    async def _follow(self, counted: Counted, following: AcceptorSet) -> None:
        """Have the next set decided: `following`, unless another one was decided before."""
        found, value = await self._registers.attempt(
            counted.set.register, acceptor_set.encoded(following), counted
        )
        if value is not None and found.outcome == "won":
            decided = acceptor_set.decoded(value)
            await self._voting.adopt(decided)
            await self._asked(decided)

    # -- moving ----------------------------------------------------------------------------------------

    async def _move(self, current: AcceptorSet) -> None:
        """See to it that what is held here is held by a majority of the new set."""
        await self._voting.adopt(current)  # from now on, nothing is accepted here in the former set
        incarnation, after = self._voting.incarnation, None
        if incarnation is None or incarnation != self._voting.numbering():
            return
        while page := await self._store.states(REGISTERS, after=after, limit=_AT_ONCE):
            after = page[-1][0]
            states = {name: acceptor.decoded(stored) for name, stored in page if not name.startswith(SETS)}
            held = {name: state for name, state in states.items() if state.accepted != NEVER}
            counted = self._voting.counted()
            if counted.set != current or not await self._all_moved(counted, held):
                return  # the next round goes on
        self._moved = (current.epoch, incarnation)

    async def _all_moved(self, counted: Counted, held: Mapping[str, Acceptor]) -> bool:
        asked = (
            self._box.ask(Inspect(name, each.accepted), counted, until="decided")
            for name, each in held.items()
        )
        found = dict(zip(held, await asyncio.gather(*asked), strict=True))
        needed = majority(counted.voters)
        left = [name for name, each in found.items() if not (each.decided and len(each.holders) >= needed)]
        # Where there is no value, it is not decided in any set, and need not be.
        again = await asyncio.gather(*(self._registers.attempt(name, b"", counted) for name in left))
        return all(each.outcome == "won" for each, _ in again)


def _replies(answers: Mapping[str, AcceptorsReply | AtollError]) -> dict[str, AcceptorsReply]:
    return {peer: each for peer, each in answers.items() if not isinstance(each, AtollError)}


def _has_moved(region: str, reply: AcceptorsReply, counted: Counted) -> bool:
    """What an incarnation that is lost has moved does not count."""
    moved = reply.moved == counted.set.epoch
    return moved and reply.incarnation == counted.voters.get(region, reply.incarnation)
