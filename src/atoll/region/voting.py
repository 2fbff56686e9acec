"""The region's acceptors: they vote in the group commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeGuard

import msgspec

from atoll.causality.types import Ballot
from atoll.commit.batch import Batch
from atoll.commit.identity import address_of
from atoll.commit.work import Wants
from atoll.consensus import acceptor, acceptor_set, decided
from atoll.consensus.acceptor import NEVER, Accept, Acceptor, Forget, Request, Retire
from atoll.consensus.acceptor_set import AcceptorSet, Counted, of_document
from atoll.consensus.voters import later, outdated
from atoll.documents.document import revision_in
from atoll.errors import AtollError, ConfigError, Unavailable
from atoll.membership.members import Members
from atoll.recovery.numbering import STATE, Numbering, numbering_of
from atoll.region.group_commit import Awaited, GroupCommit
from atoll.region.read_leases import SeenLeases
from atoll.region.site import Site
from atoll.region.unshown import Unshown
from atoll.replication.messages import VoteCall, VoteReply
from atoll.store.port import States, View

REGISTERS: Final = "register"
"""The space of acceptors' states: `collection/key` → `consensus.acceptor.Acceptor`."""
VOTERS: Final = "voter"
"""The space of incarnations: region → the latest that was recorded; the own one once its acceptors vote."""
FORGOTTEN: Final = ("forgotten", "")
"""The state that says what was promised at most for registers that were dropped: see `consensus.acceptor`."""
ACCEPTORS: Final = ("acceptors", "")
"""The state that says whose acceptors decide: a `consensus.acceptor_set.AcceptorSet`."""
ROLE: Final = ("role", "")
"""The state of a witness's store that says so."""
_WITNESS: Final = b"witness"


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


class _Adopt(NamedTuple):
    """A step: a set of acceptors is recorded, unless a later one was. What counts on an earlier one is refused."""

    set: AcceptorSet
    own: str

    def want(self, wants: Wants) -> None:
        wants.states += [STATE, ACCEPTORS]

    def perform(self, batch: Batch, view: View) -> None:
        adopt(batch, view, self.set, self.own)


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
    counted: Counted

    def want(self, wants: Wants) -> None:
        wants.states += [ACCEPTORS, *((VOTERS, region) for region in self.counted.voters)]
        wants.states += [(REGISTERS, register) for register in self.values]

    def perform(self, batch: Batch, view: View) -> None:
        voters = self.counted.voters
        recorded = {region: incarnation_in(view.states.get((VOTERS, region))) for region in voters}
        if recorded != voters or view.states.get(ACCEPTORS) != acceptor_set.encoded(self.counted.set):
            return
        for register, ballot in self.values.items():
            place = (REGISTERS, register)
            state = acceptor.decoded(state_in(batch, view, place))
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
        self.numbering = numbering
        self._check = check
        self.refuse = refuse
        self._seen = SeenLeases()
        self.unshown = Unshown()
        self.set: AcceptorSet | None = None
        """The latest set of acceptors that was heard of. It is decided, and need not be recorded here."""
        self.incarnation: int | None = None
        """That votes, as far as this node knows."""
        self.waits_for: list[str] = []
        """The regions that acceptors which join have yet to hear."""
        self.stranger: str | None = None
        """Why a proposal that counts other regions was refused; None once one has come that counts the same."""

    @property
    def members(self) -> tuple[str, ...]:
        """Whose acceptors decide, as far as it is known."""
        return self.named if self.set is None else self.set.members

    @property
    def named(self) -> tuple[str, ...]:
        """Whose acceptors ought to decide, by this region's configuration."""
        return self._members.voters

    @property
    def keepers(self) -> tuple[str, ...]:
        """Those that hold documents."""
        return tuple(region for region in self.members if region not in self._members.witnesses)

    @property
    def of_two(self) -> bool:
        """Whether nothing is decided without this region's vote, nor soon will be."""
        return len(self.named) == len(self.members) == 2 and self.set is not None and self.set.settled

    def counted(self) -> Counted:
        """What a proposer counts now. While no set is known, acceptors refuse it, and tell theirs."""
        found = self.set or AcceptorSet(0, self.named)
        return Counted(found, {region: self.known.get(region, -1) for region in found.members})

    @property
    def witness(self) -> bool:
        """Whether this region holds no documents."""
        return self._site.name in self._members.witnesses

    @property
    def joining(self) -> str | None:
        """Why the acceptors here do not vote; None when they do."""
        own = self._site.name
        if self.set is not None and own not in self.set.members:
            return (
                f"{own} is not among the regions that decide, {', '.join(self.members)}: a majority of them has to name"
                " it in atoll.toml"
            )
        return None if self.keeps_promises else _joining(own)

    @property
    def keeps_promises(self) -> bool:
        """Whether what the acceptors here have promised is known. Those that were removed keep it, too."""
        return self.incarnation is not None and self.incarnation == self.numbering()

    @property
    def closed(self) -> str | None:
        """Why the region votes for nothing at present; None when it votes."""
        return self.refuse() or self.joining or self._group_commit.trouble()

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
        self.known = later(self.known, {region: incarnation_in(value) for region, value in stored})
        self.incarnation = self.known.get(self._site.name)
        recorded = await self._store.state(*ACCEPTORS)
        if recorded is not None:
            self.hear(acceptor_set.decoded(recorded))
        elif self.incarnation is not None:  # it has voted before sets were recorded
            await self.adopt(first_set(self.named))

    @property
    def votes(self) -> bool:
        """Whether the acceptors here vote, as far as this node knows."""
        return self.refuse() is None and self.joining is None

    def heard(self, voters: Mapping[str, int], found: AcceptorSet | None = None) -> None:
        """A peer has recorded these."""
        self.known = later(self.known, voters)
        if found is not None:
            self.hear(found)

    def hear(self, found: AcceptorSet) -> None:
        """Of a set that is decided."""
        if self.set is None or found.epoch > self.set.epoch:
            self.set = found

    async def adopt(self, found: AcceptorSet) -> None:
        """Refuse what counts on an earlier set, durably on return. Raises what the store raises."""
        self.hear(found)
        stored = await self._store.state(*ACCEPTORS)
        if stored is None or acceptor_set.decoded(stored).epoch < found.epoch:
            await self._group_commit.commit(_Adopt(found, self._site.name))
        await self.reload()

    async def reload(self) -> None:
        """Another work has changed whether the acceptors here vote. Raises what the store raises."""
        voting = await self._store.state(VOTERS, self._site.name)
        self.incarnation = None if voting is None else incarnation_in(voting)
        if self.incarnation is not None:
            self.heard({self._site.name: self.incarnation})

    async def vote(self, call: VoteCall) -> VoteReply:
        """Durable on return. Raises Unavailable, and what the store raises.

        Who asks does not wait longer than for any peer. What is late must not keep the rest waiting, too.
        """
        reason = self.refuse()
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
        wants.states += [STATE, ACCEPTORS, FORGOTTEN]
        wants.states += [(VOTERS, region) for region in call.voters]
        wants.states += [(REGISTERS, request.register) for request in call.requests]
        for request in call.requests:
            if isinstance(request, Accept):
                wants.weight_bytes += len(request.value)
            elif isinstance(request, Retire) and not self.witness:
                wants.document(*address_of(request.register))

    def cast(self, batch: Batch, view: View, call: VoteCall) -> VoteReply:
        """In the transaction. Raises Unavailable, msgspec.DecodeError."""
        self._check(view)
        own = self._site.name
        if state_in(batch, view, ACCEPTORS) is None:
            raise Unavailable(_joining(own), region=own)
        counted = adopt(batch, view, call.set, own)
        self.hear(counted)
        recorded = {
            region: incarnation_in(value)
            for region in call.voters
            if (value := state_in(batch, view, (VOTERS, region))) is not None
        }
        if call.set != counted or own not in counted.members:
            self._note_stranger(call.set, counted)
            return VoteReply(recorded, (), counted)
        incarnation = _numbered(view)
        if recorded.get(own) != incarnation:
            raise Unavailable(_joining(own), region=own)
        self.stranger, self.incarnation = None, incarnation
        if outdated(call.voters, recorded, own, incarnation):
            return VoteReply(recorded, (), counted)
        votes = tuple(self._cast(batch, view, request, counted) for request in call.requests)
        return VoteReply(recorded, votes, counted)

    def _note_stranger(self, asked: AcceptorSet, counted: AcceptorSet) -> None:
        if asked.epoch == counted.epoch and asked != counted:
            self.stranger = (
                f"{self._site.name} counts the acceptors of {', '.join(counted.members)}, and a proposer those of "
                f"{', '.join(asked.members)}: both are the first set, by different configurations; give one of the "
                "regions an empty store"
            )

    def _cast(self, batch: Batch, view: View, request: Request, counted: AcceptorSet) -> acceptor.Vote:
        before, vote = _cast(batch, view, request, self._seen)
        if not isinstance(request, Retire):
            return vote
        # Before the set is settled, a region that was removed may hold what was before, and be asked for it.
        over = counted.settled and (self.witness or _shows(batch, request, before))
        return vote if over else msgspec.structs.replace(vote, granted=False)

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

    async def release(self, values: Mapping[str, Ballot], counted: Counted) -> None:
        """Drop these values, which all regions with documents hold. Raises what the store raises.

        `counted`: the acceptors when they said so.
        """
        await self._group_commit.commit(_Release(dict(values), counted))

    async def forget(self, register: str) -> None:
        """Drop what was promised and accepted for a register. Raises what the store raises."""
        work = _Forget(register)
        self._group_commit.submit(work)
        await work.done


def adopt(batch: Batch, view: View, found: AcceptorSet, own: str) -> AcceptorSet:
    """In the transaction: the set that is recorded afterwards, `found` or a later one.

    A region that was added by it, and has promised nothing to anybody, votes from then on.
    """
    stored = state_in(batch, view, ACCEPTORS)
    recorded = None if stored is None else acceptor_set.decoded(stored)
    if recorded is not None and recorded.epoch >= found.epoch:
        return recorded
    batch.pending.states[ACCEPTORS] = acceptor_set.encoded(found)
    if recorded is not None:
        batch.pending.states[REGISTERS, recorded.register] = None  # nobody asks for it any more
    incarnation = _numbered(view)
    if found.entrant == (own, incarnation):
        batch.pending.states[VOTERS, own] = b"%d" % incarnation
    return found


def _cast(batch: Batch, view: View, request: Request, seen: SeenLeases) -> tuple[Acceptor, acceptor.Vote]:
    """What was kept before, and the vote."""
    place = (REGISTERS, request.register)
    stored = state_in(batch, view, place)
    if stored is None and of_document(request.register):
        before = acceptor.unknown(number_in(state_in(batch, view, FORGOTTEN)))
    else:
        before = acceptor.decoded(stored)
    after, vote = acceptor.vote(before, request, leased=seen.lasts(request.register, before))
    seen.lasts(request.register, after)
    if isinstance(request, Forget) and after.accepted == NEVER:
        if stored is not None:
            batch.pending.states[place] = None
            raise_forgotten(batch, view, acceptor.past(after))
    elif after is not before:
        data = acceptor.encoded(after)
        batch.pending.states[place] = data
        batch.size_bytes += len(data)
    return before, vote


def _is_of_document(request: Request) -> TypeGuard[Accept]:
    return isinstance(request, Accept) and of_document(request.register)


def _shows(batch: Batch, request: Retire, state: Acceptor) -> bool:
    """Whether this region's documents show the deletion that a register holds."""
    if state.accepted == NEVER:
        return True
    value = decided.decoded(state.value)
    return value.over and revision_in(batch.row(address_of(request.register))) >= value.revision


def state_in(batch: Batch, view: View, place: tuple[str, str]) -> bytes | None:
    """As it is after what the batch has changed so far."""
    pending = batch.pending.states
    return pending[place] if place in pending else view.states.get(place)


def raise_forgotten(batch: Batch, view: View, number: int) -> None:
    if number > number_in(state_in(batch, view, FORGOTTEN)):
        batch.pending.states[FORGOTTEN] = b"%d" % number


def first_set(named: Iterable[str]) -> AcceptorSet:
    """Of a deployment that has none."""
    return AcceptorSet(1, tuple(sorted(named)))


def _joining(region: str) -> str:
    return f"{region} takes over what the acceptors of other regions have promised"


def _numbered(view: View) -> int:
    """The region's incarnation."""
    return (numbering_of(view.states.get(STATE)) or Numbering()).incarnation


def incarnation_in(stored: bytes | None) -> int:
    """-1 where none is recorded."""
    return -1 if stored is None else int(stored)


def number_in(stored: bytes | None) -> int:
    return 0 if stored is None else int(stored)
