"""What one region promises and accepts for one register: the acceptor of CASPaxos.

Rystsov, "CASPaxos: Replicated State Machines without logs", 2018. Each register is a consensus of its own.
A proposer reads the value of the highest ballot that a majority knows. It changes it, and has a majority accept the
outcome.

An acceptor keeps two promises, both durable before they are answered:

- It accepts nothing under a ballot below the one that it has promised.
- What it has accepted is told to every proposer that prepares a higher ballot.

An accepted proposal also carries the proposer's next ballot, which counts as promised. So a proposer that stays needs
one round trip for each further change.

An accepted proposal may ask for a *lease*: for so long no other proposer is promised anything. Meanwhile what its
proposer has decided last is what any read must show (`region/read_leases.py`). The acceptor counts from when it has
seen the proposal, so later than the proposer does.

A register whose document is deleted is *dropped* in time, in two rounds to all acceptors. In the first one each says
that it holds nothing else (`Retire`). In the second each drops it (`Forget`). What is left of it is one number for all
registers that were dropped, above everything promised for them. An acceptor that holds nothing of a register has
promised that much. So a message that comes late finds the register as closed as it was.

A *witness* holds no documents. It accepts values as every acceptor does. It drops a value once all regions with
documents hold it, or a later one (`Holds`), and keeps its ballot (`released`). Whoever hears of that ballot takes the
value from one of those regions: see `consensus.round`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from atoll.causality.types import Ballot

NEVER: Final = Ballot(0, "")
"""Below every ballot that a proposer begins."""
MOST_LEASE_MS: Final = 3000
"""A lost proposer must not stop the others for longer."""


class Acceptor(msgspec.Struct, array_like=True, frozen=True):
    """Of one register in one region: durable."""

    promised: Ballot = NEVER
    accepted: Ballot = NEVER
    """The ballot of `value`; NEVER where nothing was accepted yet."""
    value: bytes = b""
    """See `consensus.decided`."""
    lease_ms: int = 0
    """For so long the proposer of `promised` is the only one."""
    elsewhere: bool = False
    """Whether the value is not kept here: every region with documents has held it, or a later one."""


class Prepare(msgspec.Struct, array_like=True, frozen=True, tag="prepare"):
    """Promise the ballot, and say what was accepted."""

    register: str
    ballot: Ballot
    known: Ballot = NEVER
    """The proposer knows the value that was accepted under this ballot: it need not be sent."""


class Accept(msgspec.Struct, array_like=True, frozen=True, tag="accept"):
    """Accept a value under a ballot, and promise the next one."""

    register: str
    ballot: Ballot
    value: bytes
    next: Ballot
    """Higher than `ballot`, and the same proposer's."""
    lease_ms: Annotated[int, msgspec.Meta(ge=0, le=MOST_LEASE_MS)] = 0


class Inspect(msgspec.Struct, array_like=True, frozen=True, tag="inspect"):
    """Say what was accepted. Nothing is promised."""

    register: str
    known: Ballot = NEVER


class Retire(msgspec.Struct, array_like=True, frozen=True, tag="retire"):
    """Say whether nothing but the value of this ballot is held, and documents show it. Nothing is promised."""

    register: str
    ballot: Ballot


class Forget(msgspec.Struct, array_like=True, frozen=True, tag="forget"):
    """Drop the value of this ballot; what was accepted since stays, and all while a lease lasts."""

    register: str
    ballot: Ballot


class Holds(msgspec.Struct, array_like=True, frozen=True, tag="holds"):
    """Say whether the value of this ballot, or of a later one, is kept. Nothing is promised, and no value is sent."""

    register: str
    ballot: Ballot


Request = Prepare | Accept | Inspect | Retire | Forget | Holds


class Vote(msgspec.Struct, array_like=True, frozen=True):
    """What an acceptor answers to one request."""

    granted: bool
    promised: Ballot
    accepted: Ballot
    value: bytes | None = None
    """What was accepted; None where the proposer knows it, and where it is not kept."""
    elsewhere: bool = False
    """Whether it is not kept: a region with documents has it, or a later one."""


def vote(state: Acceptor, request: Request, *, leased: bool = False) -> tuple[Acceptor, Vote]:
    """The state that has to be durable before the vote leaves, and the vote. Repeating a request changes nothing.

    `leased` says whether the state's lease lasts yet.
    """
    match request:
        case Prepare():
            other = request.ballot.proposer != state.promised.proposer
            granted = request.ballot >= state.promised and not (leased and other)
            if granted and request.ballot != state.promised:
                lease_ms = 0 if other else state.lease_ms
                state = msgspec.structs.replace(state, promised=request.ballot, lease_ms=lease_ms)
            return state, _vote(granted, state, request.known)
        case Accept():
            if request.ballot == state.accepted:
                return state, _vote(True, state, state.accepted)
            if request.ballot < state.promised:
                return state, _vote(False, state, state.accepted)
            state = Acceptor(request.next, request.ballot, request.value, request.lease_ms)
            return state, _vote(True, state, state.accepted)
        case Inspect():
            return state, _vote(True, state, request.known)
        case Retire():
            return state, _vote(state.accepted in (NEVER, request.ballot), state, state.accepted)
        case Forget():
            if state.accepted == request.ballot and not leased:
                state = Acceptor(state.promised)
            return state, _vote(state.accepted == NEVER, state, state.accepted)
        case Holds():
            kept = state.accepted >= request.ballot and not state.elsewhere
            return state, _vote(kept, state, state.accepted)


def released(state: Acceptor) -> Acceptor:
    """Without its value: all regions with documents have said that they keep it, or a later one."""
    return msgspec.structs.replace(state, value=b"", elsewhere=True)


def unknown(forgotten: int) -> Acceptor:
    """What was promised for a register of which nothing is held."""
    return Acceptor(Ballot(forgotten, ""))


def past(state: Acceptor) -> int:
    """The number of `unknown` that is above all that was promised."""
    return state.promised.number + 1


def _vote(granted: bool, state: Acceptor, known: Ballot) -> Vote:
    if state.accepted <= known:
        return Vote(granted, state.promised, state.accepted)
    value = None if state.elsewhere else state.value
    return Vote(granted, state.promised, state.accepted, value, state.elsewhere)


def joined(ours: Acceptor, theirs: Acceptor) -> Acceptor:
    """What an acceptor that begins anew takes over from another: the higher promise, and the later value.

    Leases are no part of it: whoever joins votes only after all that it has met are over.
    """
    first = theirs if theirs.promised > ours.promised else ours
    latest = theirs if _keeps(theirs) > _keeps(ours) else ours
    return Acceptor(first.promised, latest.accepted, latest.value, elsewhere=latest.elsewhere)


def _keeps(state: Acceptor) -> tuple[Ballot, bool]:
    """In the order of what is worth more: of one ballot its value, rather than that others have it."""
    return state.accepted, not state.elsewhere


class _Promise(msgspec.Struct, array_like=True, frozen=True):
    """The beginning of an `Acceptor`: what follows is left unread."""

    promised: Ballot = NEVER


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Acceptor).decode


def encoded(state: Acceptor) -> bytes:
    """As the store keeps it."""
    return _encode(state)


def decoded(stored: bytes | None) -> Acceptor:
    """Raises msgspec.DecodeError."""
    return Acceptor() if stored is None else _decode(stored)


_decode_promise = msgspec.msgpack.Decoder(_Promise).decode


def promised(stored: bytes | None) -> Ballot:
    """Of a stored state, without its value. Raises msgspec.DecodeError."""
    return NEVER if stored is None else _decode_promise(stored).promised
