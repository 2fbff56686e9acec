"""Acceptors join anew after their promises were lost: see `consensus.voters`. The first of a deployment do, too.

One node of a region at a time does that: it holds a lease, from the first register that it drops until its acceptors
vote. Else a node would drop what another one has taken over. That one would then let the acceptors vote without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec

from atoll.commit.batch import Batch
from atoll.commit.work import Fence, Fenced, Step, Wants
from atoll.consensus import acceptor
from atoll.consensus.acceptor_set import AcceptorSet
from atoll.consensus.voters import Joining
from atoll.errors import AtollError, FenceLost, Unavailable
from atoll.recovery.numbering import STATE
from atoll.region.group_commit import GroupCommit
from atoll.region.node_leases import NodeLeases
from atoll.region.site import Site
from atoll.region.voting import (
    ACCEPTORS,
    FORGOTTEN,
    REGISTERS,
    VOTERS,
    Voting,
    adopt,
    first_set,
    incarnation_in,
    number_in,
    raise_forgotten,
    state_in,
)
from atoll.replication.messages import JoinCall, JoinReply
from atoll.store.port import States, View

_PAGE: Final = 64
_PAGE_BYTES: Final = 4 << 20
_RETRY_S: Final = 0.5
LEASE: Final = "acceptors"
"""Of the node whose acceptors join."""


class _Record(NamedTuple):
    """A step: another incarnation of a region's acceptors is recorded, unless a later one was."""

    region: str
    incarnation: int

    def want(self, wants: Wants) -> None:
        wants.states.append((VOTERS, self.region))

    def perform(self, batch: Batch, view: View) -> None:
        if self.incarnation > incarnation_in(state_in(batch, view, (VOTERS, self.region))):
            batch.pending.states[VOTERS, self.region] = b"%d" % self.incarnation


class _Begin(NamedTuple):
    """A step: the region's own acceptors vote, in a set that it has read enough of; not if it knows a later one."""

    own: str
    incarnation: int
    set: AcceptorSet

    def want(self, wants: Wants) -> None:
        wants.states += [STATE, ACCEPTORS]

    def perform(self, batch: Batch, view: View) -> None:
        if adopt(batch, view, self.set, self.own) == self.set:
            batch.pending.states[VOTERS, self.own] = b"%d" % self.incarnation


class _WhileJoining(NamedTuple):
    """A step's condition: another node of the region may have joined meanwhile. What votes is not to be changed."""

    own: str
    incarnation: int

    def holds(self, batch: Batch, view: View) -> bool:
        return incarnation_in(state_in(batch, view, (VOTERS, self.own))) != self.incarnation


class _TakeOver(NamedTuple):
    """A step: promises and values of another region's acceptors become this one's own."""

    condition: _WhileJoining
    registers: tuple[tuple[str, bytes], ...]
    forgotten: int

    def want(self, wants: Wants) -> None:
        wants.states += [FORGOTTEN, (VOTERS, self.condition.own)]
        wants.states += [(REGISTERS, register) for register, _ in self.registers]

    def perform(self, batch: Batch, view: View) -> None:
        if not self.condition.holds(batch, view):
            return
        raise_forgotten(batch, view, self.forgotten)
        for register, theirs in self.registers:
            place = (REGISTERS, register)
            ours = acceptor.decoded(state_in(batch, view, place))
            batch.pending.states[place] = acceptor.encoded(acceptor.joined(ours, acceptor.decoded(theirs)))


class _Clear(NamedTuple):
    """A step: registers of an acceptor that does not vote are dropped."""

    condition: _WhileJoining
    registers: tuple[str, ...]

    def want(self, wants: Wants) -> None:
        wants.states.append((VOTERS, self.condition.own))

    def perform(self, batch: Batch, view: View) -> None:
        if self.condition.holds(batch, view):
            batch.pending.states.update({(REGISTERS, register): None for register in self.registers})


class Joiner:
    """Of one node. `run` it."""

    def __init__(
        self, site: Site, store: States, group_commit: GroupCommit, voting: Voting, leases: NodeLeases
    ) -> None:
        self._site = site
        self._store = store
        self._group_commit = group_commit
        self._voting = voting
        self._leases = leases
        self._alone = asyncio.Lock()
        self._found_ms = 0
        """The longest lease that was met meanwhile."""

    async def join(self, call: JoinCall) -> JoinReply:
        """A peer's acceptors begin anew. Raises what the store raises."""
        voting, own = self._voting, self._site.name
        known = {*voting.named, *voting.members, *(voting.set.before if voting.set else ())}
        if call.region not in known or call.region == own:
            raise Unavailable(f"{call.region} is no peer of {own}", region=own)
        if call.set is not None and voting.set is not None:
            await voting.adopt(call.set)
        await self._record(call.region, call.incarnation)
        page = await self._store.states(REGISTERS, after=call.after, limit=_PAGE)
        taken, size = 0, 0
        for _, value in page:
            taken, size = taken + 1, size + len(value)
            if size >= _PAGE_BYTES:
                break
        more = taken < len(page) or len(page) == _PAGE
        forgotten = number_in(await self._store.state(*FORGOTTEN))
        voters = {region: each for region, each in voting.known.items() if region in known}
        registers = tuple(page[:taken])
        return JoinReply(voting.keeps_promises, voters, registers, more, forgotten, voting.set, voting.named)

    async def _record(self, region: str, incarnation: int) -> None:
        """Durable on return. That it is known says nothing: it may have been heard of, and recorded by others only."""
        if incarnation <= incarnation_in(await self._store.state(VOTERS, region)):
            return
        await self._group_commit.commit(_Record(region, incarnation))
        self._voting.heard({region: incarnation})

    async def run(self) -> None:
        """For ever: whenever the region has begun an incarnation, its acceptors join anew."""
        while True:
            voting = self._voting
            incarnation = voting.numbering()
            ours = voting.set is None or self._site.name in voting.members
            if incarnation is None or voting.refuse() is not None or voting.keeps_promises or not ours:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._join_as(incarnation)
            except AtollError:
                await asyncio.sleep(_RETRY_S)  # the store takes no writes at present

    async def clear(self, incarnation: int) -> None:
        """Drop all that the acceptors hold, unless they vote, or another node joins. Raises what the store raises."""
        async with self._as_one() as fence:
            await self._clear(incarnation, fence)

    @contextlib.asynccontextmanager
    async def _as_one(self) -> AsyncIterator[Fence]:
        """While no other node of the region joins. Raises Unavailable where one does, and what the store raises."""
        async with self._alone:
            generation = await self._leases.claim(LEASE)
            if generation is None:
                raise Unavailable(f"another node of {self._site.name} joins", region=self._site.name)
            try:
                yield Fence(LEASE, generation)
            finally:
                with contextlib.suppress(AtollError):  # it ends by itself
                    await self._leases.release(LEASE)

    async def _commit(self, step: Step, fence: Fence) -> None:
        await self._group_commit.commit(Fenced(step, fence))

    async def _clear(self, incarnation: int, fence: Fence) -> None:
        condition = _WhileJoining(self._site.name, incarnation)
        after: str | None = None
        while page := await self._store.states(REGISTERS, after=after, limit=_PAGE):
            after = page[-1][0]
            await self._commit(_Clear(condition, tuple(name for name, _ in page)), fence)

    async def _join_as(self, incarnation: int) -> None:
        """In the set that is known; it begins anew once a later one is heard of."""
        if incarnation_in(await self._store.state(VOTERS, self._site.name)) == incarnation:
            self._voting.incarnation = incarnation  # another node of the region has joined
            return
        async with self._as_one() as fence:
            await self._join_behind(fence, incarnation)

    async def _join_behind(self, fence: Fence, incarnation: int) -> None:
        voting, own = self._voting, self._site.name
        await self._clear(incarnation, fence)
        self._found_ms, known, named = 0, voting.set, frozenset(voting.named)
        members, before = (known.members, known.before) if known else (named, ())
        joining = Joining(own, frozenset(members), frozenset(before), named)
        while not joining.enough:
            voting.waits_for = left = sorted(joining.asked - joining.read)
            found = await asyncio.gather(*(self._read(peer, incarnation, fence) for peer in left))
            if voting.set != known or frozenset(voting.named) != named or voting.numbering() != incarnation:
                return
            read = {peer for peer, keeps in zip(left, found, strict=True) if keeps is not None}
            keep = {peer for peer, keeps in zip(left, found, strict=True) if keeps}
            joining = msgspec.structs.replace(joining, read=joining.read | read, voting=joining.voting | keep)
            if not joining.enough:
                await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(self._found_ms / 1000)  # the former incarnation may have granted them
        if voting.set != known or voting.numbering() != incarnation:
            return
        counted = known or first_set(named)
        await self._commit(_Begin(own, incarnation, counted), fence)
        voting.hear(counted)
        await voting.reload()
        voting.waits_for = []

    async def _read(self, peer: str, incarnation: int, fence: Fence) -> bool | None:
        """Take over all that a peer's acceptors hold. Whether they kept their promises; None where not all was read.

        Raises FenceLost.
        """
        voting, own, after = self._voting, self._site.name, None
        known = voting.set
        condition = _WhileJoining(own, incarnation)
        votes = known is None or peer in (*known.members, *known.before)
        try:
            while True:
                page = await self._site.ask(peer, JoinCall(own, incarnation, after, known), JoinReply)
                if page.set is not None:
                    voting.hear(page.set)
                if voting.set != known or (known is None and set(page.named) != set(voting.named)):
                    return None
                if not votes:
                    return False  # what it holds may be long over
                for region, each in page.voters.items():
                    if region != own:
                        await self._record(region, each)
                if page.registers or page.forgotten:
                    await self._commit(_TakeOver(condition, page.registers, page.forgotten), fence)
                if voting.witness:  # now: what is noted before it is there would be taken for gone
                    voting.held.update(dict.fromkeys(name for name, _ in page.registers))
                if page.registers:
                    leases_ms = (acceptor.decoded(state).lease_ms for _, state in page.registers)
                    self._found_ms = max(self._found_ms, *leases_ms)
                    after = page.registers[-1][0]
                if not page.more:
                    return page.voting
        except FenceLost:
            raise  # another node has begun
        except AtollError:
            return None
