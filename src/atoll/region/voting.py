"""The region's acceptors: they vote in the group commit, and join anew after their promises were lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeGuard

import msgspec

from atoll.causality.types import Ballot
from atoll.commit.batch import Batch
from atoll.commit.identity import address_of
from atoll.commit.work import Wants
from atoll.consensus import acceptor, decided
from atoll.consensus.acceptor import NEVER, Accept, Acceptor, Forget, Request, Retire
from atoll.consensus.outcome import OUTCOMES
from atoll.consensus.voters import Joining, later, misses, outdated
from atoll.documents.document import revision_in
from atoll.errors import AtollError, ConfigError, Unavailable
from atoll.membership.members import Members
from atoll.recovery.numbering import STATE, Numbering, numbering_of
from atoll.region.group_commit import Awaited, GroupCommit
from atoll.region.read_leases import SeenLeases
from atoll.region.site import Site
from atoll.region.unshown import Unshown
from atoll.replication.messages import JoinCall, JoinReply, VoteCall, VoteReply
from atoll.store.port import States, View

REGISTERS: Final = "register"
"""The space of acceptors' states: `collection/key` → `consensus.acceptor.Acceptor`."""
VOTERS: Final = "voter"
"""The space of incarnations: region → the latest that was recorded; the own one once its acceptors vote."""
FORGOTTEN: Final = ("forgotten", "")
"""The state that says what was promised at most for registers that were dropped: see `consensus.acceptor`."""
ROLE: Final = ("role", "")
"""The state of a witness's store that says so."""
_WITNESS: Final = b"witness"
_PAGE: Final = 64
_PAGE_BYTES: Final = 4 << 20
_RETRY_S: Final = 0.5


class _Votes(Awaited[VoteReply]):
    """A work: all votes of one call."""

    __slots__ = ("_call", "_voting")

    def __init__(self, voting: Voting, call: VoteCall) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._voting = voting
        self._call = call

    def want(self, wants: Wants) -> None:
        self._voting.want(wants, self._call)

    def committed(self) -> None:
        self._voting.note(self._call, self.result)
        super().committed()

    def failed(self, error: AtollError) -> None:
        self._voting.note(self._call, error)  # it may be committed all the same
        super().failed(error)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: what is wrong is the caller's to hear."""
        try:
            self.result = self._voting.cast(batch, view, self._call)
        except AtollError as error:
            self.result = error
        except msgspec.DecodeError as error:
            self.result = AtollError(f"what an acceptor has promised cannot be read: {error}")


class _Forget(Awaited[None]):
    """A work: a register that nobody will ask for again."""

    __slots__ = ("_register",)

    def __init__(self, register: str) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.result = None
        self._register = register

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[REGISTERS, self._register] = None


class _Record(NamedTuple):
    """A step: another incarnation of a region's acceptors is recorded, unless a later one was."""

    region: str
    incarnation: int

    def want(self, wants: Wants) -> None:
        wants.states.append((VOTERS, self.region))

    def perform(self, batch: Batch, view: View) -> None:
        if self.incarnation > _incarnation(view.states.get((VOTERS, self.region))):
            batch.pending.states[VOTERS, self.region] = b"%d" % self.incarnation


class _TakeOver(NamedTuple):
    """A step: promises and values of another region's acceptors become this one's own."""

    registers: tuple[tuple[str, bytes], ...]
    forgotten: int

    def want(self, wants: Wants) -> None:
        wants.states += [FORGOTTEN, *((REGISTERS, register) for register, _ in self.registers)]

    def perform(self, batch: Batch, view: View) -> None:
        _raise_forgotten(batch, view, self.forgotten)
        for register, theirs in self.registers:
            place = (REGISTERS, register)
            ours = acceptor.decoded(_state(batch, view, place))
            batch.pending.states[place] = acceptor.encoded(acceptor.joined(ours, acceptor.decoded(theirs)))


class _Take(NamedTuple):
    """A step: the store takes a role."""

    role: bytes

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[ROLE] = self.role


class _Release(NamedTuple):
    """A step: a witness drops values. Nothing changes if an acceptor that was counted has begun anew since."""

    values: dict[str, Ballot]
    voters: dict[str, int]

    def want(self, wants: Wants) -> None:
        wants.states += [(VOTERS, region) for region in self.voters]
        wants.states += [(REGISTERS, register) for register in self.values]

    def perform(self, batch: Batch, view: View) -> None:
        recorded = {region: _incarnation(view.states.get((VOTERS, region))) for region in self.voters}
        if recorded != self.voters:
            return
        for register, ballot in self.values.items():
            place = (REGISTERS, register)
            state = acceptor.decoded(_state(batch, view, place))
            if state.accepted == ballot:
                batch.pending.states[place] = acceptor.encoded(acceptor.released(state))


class Voting:
    """Of one node. `open` it, `run` it."""

    def __init__(
        self,
        site: Site,
        members: Members,
        store: States,
        group_commit: GroupCommit,
        *,
        numbering: Callable[[], int | None],
        check: Callable[[View], None],
        refuse: Callable[[], str | None],
    ) -> None:
        """`numbering` tells the region's incarnation, None while it is unknown.

        `check` raises while the database's history is not trusted. `refuse` says why the store may lack what was
        promised, None once that is known.
        """
        self.known: dict[str, int] = {}
        """Region → the latest incarnation of its acceptors that was heard of. It need not be recorded here."""
        self.held: dict[str, None] = {}
        """In a witness: registers whose values it may hold."""
        self.reached: frozenset[str] = frozenset()
        """Witnesses that have answered lately."""
        self._site = site
        self._members = members
        self._store = store
        self._group_commit = group_commit
        self._numbering = numbering
        self._check = check
        self._refuse = refuse
        self._seen = SeenLeases()
        self.unshown = Unshown()
        self._voting: int | None = None
        """The incarnation that votes, as far as this node knows."""
        self._joined: Joining | None = None
        """How far the acceptors are, while they join anew."""
        self._found_ms = 0
        """The longest lease that they have met meanwhile."""
        self.stranger: str | None = None
        """Why a proposal that counts other regions was refused; None once one has come that counts the same."""

    @property
    def members(self) -> tuple[str, ...]:
        return self._members.voters

    @property
    def keepers(self) -> tuple[str, ...]:
        """The regions that hold documents."""
        return self._members.regions

    @property
    def witness(self) -> bool:
        """Whether this region holds no documents."""
        return self._site.name in self._members.witnesses

    @property
    def joining(self) -> str | None:
        """Why the acceptors here do not vote; None when they do."""
        if self._voting is not None and self._voting == self._numbering():
            return None
        return _joining(self._site.name)

    @property
    def waits_for(self) -> list[str]:
        """The regions that acceptors which join have yet to hear."""
        joined = self._joined
        return [] if joined is None else sorted(joined.members - {joined.region} - joined.read)

    @property
    def closed(self) -> str | None:
        """Why the region votes for nothing at present; None when it votes."""
        return self._refuse() or self.joining or self._group_commit.trouble()

    async def open(self) -> None:
        """Raises ConfigError for the store of another kind of region, and what the store raises."""
        role = await self._store.state(*ROLE)
        if self.witness and role is None:
            if self._group_commit.progress.vector:
                raise ConfigError(
                    f"the store of {self._site.name} holds documents, and a witness holds none; give it an empty store"
                )
            await self._group_commit.commit(_Take(_WITNESS))
        elif role == _WITNESS and not self.witness:
            raise ConfigError(
                f"the store of {self._site.name} is a witness's, which lacks values; give the region an empty store"
            )
        stored = await self._store.states(VOTERS)
        self.known = later(self.known, {region: _incarnation(value) for region, value in stored})
        self._voting = self.known.get(self._site.name)

    @property
    def votes(self) -> bool:
        """Whether the acceptors here vote, as far as this node knows."""
        return self._refuse() is None and self.joining is None

    def heard(self, voters: Mapping[str, int]) -> None:
        """A peer has recorded these."""
        self.known = later(self.known, voters)

    async def vote(self, call: VoteCall) -> VoteReply:
        """Durable on return. Raises Unavailable, and what the store raises.

        Who asks does not wait longer than for any peer. What is late must not keep the rest waiting, too.
        """
        reason = self._refuse()
        if reason is not None:
            raise Unavailable(reason, region=self._site.name)
        work, patience_s = _Votes(self, call), self._site.options.peer_timeout_s
        self._group_commit.submit(work)
        try:
            async with asyncio.timeout(patience_s):
                return await work.done
        except TimeoutError:
            late = f"{self._site.name} could not record its votes within {patience_s:g} s"
            raise Unavailable(late, region=self._site.name) from None

    def want(self, wants: Wants, call: VoteCall) -> None:
        """What `cast` needs to find loaded, and what time it is: `cast` may run in a thread."""
        self._seen.now_s = asyncio.get_running_loop().time()
        wants.states += [STATE, FORGOTTEN, *((VOTERS, region) for region in self.members)]
        wants.states += [(REGISTERS, request.register) for request in call.requests]
        for request in call.requests:
            if isinstance(request, Accept):
                wants.weight_bytes += len(request.value)
            elif isinstance(request, Retire) and not self.witness:
                wants.document(*address_of(request.register))

    def cast(self, batch: Batch, view: View, call: VoteCall) -> VoteReply:
        """In the transaction. Raises Unavailable, msgspec.DecodeError."""
        self._check(view)
        own, members = self._site.name, frozenset(self.members)
        recorded = {
            region: _incarnation(view.states[VOTERS, region])
            for region in self.members
            if (VOTERS, region) in view.states
        }
        incarnation = (numbering_of(view.states.get(STATE)) or Numbering()).incarnation
        if recorded.get(own) != incarnation:
            raise Unavailable(_joining(own), region=own)
        self.stranger = None
        if misses(call.voters, members):
            self.stranger = (
                f"{own} counts the acceptors of {', '.join(sorted(members))}, and a proposer those of "
                f"{', '.join(sorted(call.voters))}; give all regions the same configuration"
            )
            raise Unavailable(self.stranger, region=own)
        if outdated(call.voters, recorded, own, incarnation):
            return VoteReply(recorded, ())
        return VoteReply(recorded, tuple(self._cast(batch, view, request) for request in call.requests))

    def _cast(self, batch: Batch, view: View, request: Request) -> acceptor.Vote:
        before, vote = _cast(batch, view, request, self._seen)
        shows = self.witness or not isinstance(request, Retire) or _shows(batch, request, before)
        return vote if shows else msgspec.structs.replace(vote, granted=False)

    def note(self, call: VoteCall, result: VoteReply | AtollError) -> None:
        """These votes are cast, or may be where it is an error: what a witness holds, what others have yet to show."""
        if self.witness:
            self.held.update((each.register, None) for each in filter(_is_of_document, call.requests))
        elif not isinstance(result, AtollError):
            now_s = asyncio.get_running_loop().time()
            votes = zip(call.requests, result.votes, strict=False)  # none if the proposer counts otherwise
            for request, vote in votes:
                if _is_of_document(request) and vote.granted:
                    with contextlib.suppress(msgspec.DecodeError):  # for whoever reads it to report
                        self.unshown.accepted(request.register, decided.revision_of(request.value), now_s)

    async def release(self, values: Mapping[str, Ballot], voters: Mapping[str, int]) -> None:
        """Drop these values, which all regions with documents hold. Raises what the store raises.

        `voters`: the acceptors that were counted when they said so.
        """
        await self._group_commit.commit(_Release(dict(values), dict(voters)))

    async def forget(self, register: str) -> None:
        """Drop what was promised and accepted for a register. Raises what the store raises."""
        work = _Forget(register)
        self._group_commit.submit(work)
        await work.done

    # -- joining ---------------------------------------------------------------------------------------

    async def join(self, call: JoinCall) -> JoinReply:
        """A peer's acceptors begin anew. Raises what the store raises."""
        if call.region not in self.members or call.region == self._site.name:
            raise Unavailable(f"{call.region} is no peer of {self._site.name}", region=self._site.name)
        await self._record(call.region, call.incarnation)
        page = await self._store.states(REGISTERS, after=call.after, limit=_PAGE)
        taken, size = 0, 0
        for _, value in page:
            taken, size = taken + 1, size + len(value)
            if size >= _PAGE_BYTES:
                break
        more = taken < len(page) or len(page) == _PAGE
        voters = {region: known for region, known in self.known.items() if region in self.members}
        forgotten = _number(await self._store.state(*FORGOTTEN))
        return JoinReply(self.joining is None, voters, tuple(page[:taken]), more, forgotten)

    async def _record(self, region: str, incarnation: int) -> None:
        """Durable on return. That it is known says nothing: it may have been heard of, and recorded by others only."""
        if incarnation <= _incarnation(await self._store.state(VOTERS, region)):
            return
        await self._group_commit.commit(_Record(region, incarnation))
        self.heard({region: incarnation})

    async def run(self) -> None:
        """For ever: whenever the region has begun an incarnation, its acceptors join anew."""
        while True:
            incarnation = self._numbering()
            if incarnation is None or self._refuse() is not None or self._voting == incarnation:
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                await self._join_as(incarnation)
            except AtollError:
                await asyncio.sleep(_RETRY_S)  # the store takes no writes at present

    async def _join_as(self, incarnation: int) -> None:
        joining = Joining(self._site.name, frozenset(self.members))
        self._found_ms = 0
        while not joining.enough:
            self._joined = joining
            left = self.waits_for
            found = await asyncio.gather(*(self._read(peer, incarnation) for peer in left))
            read = frozenset(peer for peer, voting in zip(left, found, strict=True) if voting is not None)
            voting = frozenset(peer for peer, votes in zip(left, found, strict=True) if votes)
            joining = Joining(
                joining.region, frozenset(self.members), joining.read | read, joining.voting | voting
            )
            if self._numbering() != incarnation:
                return
            if not joining.enough:
                await asyncio.sleep(_RETRY_S)
        await asyncio.sleep(self._found_ms / 1000)  # the former incarnation may have granted them
        if self._numbering() != incarnation:
            return
        await self._record(self._site.name, incarnation)
        self._voting, self._joined = incarnation, None

    async def _read(self, peer: str, incarnation: int) -> bool | None:
        """Take over all that a peer's acceptors hold. Whether they vote; None where not all was read."""
        after: str | None = None
        with contextlib.suppress(AtollError):
            while True:
                page = await self._site.ask(peer, JoinCall(self._site.name, incarnation, after), JoinReply)
                for region, known in page.voters.items():
                    if region != self._site.name:
                        await self._record(region, known)
                if page.registers or page.forgotten:
                    await self._group_commit.commit(_TakeOver(page.registers, page.forgotten))
                if self.witness:  # now: what is noted before it is there would be taken for gone
                    self.held.update(dict.fromkeys(name for name, _ in page.registers))
                if page.registers:
                    leases_ms = (acceptor.decoded(state).lease_ms for _, state in page.registers)
                    self._found_ms = max(self._found_ms, *leases_ms)
                    after = page.registers[-1][0]
                if not page.more:
                    return page.voting
        return None


def _cast(batch: Batch, view: View, request: Request, seen: SeenLeases) -> tuple[Acceptor, acceptor.Vote]:
    """What was kept before, and the vote."""
    place = (REGISTERS, request.register)
    stored = _state(batch, view, place)
    if stored is None and not request.register.startswith(OUTCOMES):
        before = acceptor.unknown(_number(_state(batch, view, FORGOTTEN)))
    else:
        before = acceptor.decoded(stored)
    after, vote = acceptor.vote(before, request, leased=seen.lasts(request.register, before))
    seen.lasts(request.register, after)
    if isinstance(request, Forget) and after.accepted == NEVER:
        if stored is not None:
            batch.pending.states[place] = None
            _raise_forgotten(batch, view, acceptor.past(after))
    elif after is not before:
        data = acceptor.encoded(after)
        batch.pending.states[place] = data
        batch.size_bytes += len(data)
    return before, vote


def _is_of_document(request: Request) -> TypeGuard[Accept]:
    return isinstance(request, Accept) and not request.register.startswith(OUTCOMES)


def _shows(batch: Batch, request: Retire, state: Acceptor) -> bool:
    """Whether this region's documents show the deletion that a register holds."""
    if state.accepted == NEVER:
        return True
    value = decided.decoded(state.value)
    return value.over and revision_in(batch.row(address_of(request.register))) >= value.revision


def _state(batch: Batch, view: View, place: tuple[str, str]) -> bytes | None:
    pending = batch.pending.states
    return pending[place] if place in pending else view.states.get(place)


def _raise_forgotten(batch: Batch, view: View, number: int) -> None:
    if number > _number(_state(batch, view, FORGOTTEN)):
        batch.pending.states[FORGOTTEN] = b"%d" % number


def _joining(region: str) -> str:
    return f"{region} takes over what the acceptors of other regions have promised"


def _incarnation(stored: bytes | None) -> int:
    return -1 if stored is None else int(stored)


def _number(stored: bytes | None) -> int:
    return 0 if stored is None else int(stored)
