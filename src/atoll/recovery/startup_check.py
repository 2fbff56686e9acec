"""Start-up position check: under which incarnation a node numbers, and what it must have before it does.

A region with an empty store, or with one that was restored from a backup, begins a new incarnation at once. What was
numbered before may be unknown here. Any other copy of an old disk is found out when a peer holds more of the region's
present incarnation than the region does. So a region that starts hears its peers before its first write, for a time.

A region that was taken out of the deployment, and comes back with its old store, begins a new incarnation, too.

What former incarnations numbered comes back from the peers, as entries of other origins do. Until it has, the region
orders nothing that has an owner. It spends the rights of former incarnations once nothing of them is still to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from atoll.causality.origin import Origin, incarnation_of, of_region, origin_of
from atoll.causality.vector import descends, merge
from atoll.protocol import port
from atoll.recovery.numbering import STATE, Numbering, Renumber, Settle, numbering_of

RETRY_S = 0.5
"""After which what failed is tried again."""


@dataclass(frozen=True, slots=True)
class StartupState:
    """Of one node."""

    region: str
    peers: frozenset[str]
    patience_s: float
    numbering: Numbering = field(default_factory=Numbering)
    """As it was last read of the store."""
    known: bool = False
    """Whether it was read since the node started, or its database was replaced."""
    begins: Renumber | None = None
    """What is being recorded."""
    fresh: bool = False
    """Whether the incarnation began in this run: then nobody can know more of it."""
    doubted: bool = False
    """Whether a peer announced more of the present incarnation, and the store is asked."""
    until_s: float = 0.0
    """So long peers are waited for."""
    over: bool = False
    """Whether every peer was heard, or waited for long enough."""
    heard: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    """Peers that are gone for good: nobody waits for them."""
    announced: Mapping[str, int] = field(default_factory=dict)
    """The region's own origins → the highest seq that a peer holds."""
    awaited: Mapping[str, int] = field(default_factory=dict)
    """The former ones that the last `AwaitCovered` is about."""
    covered: Mapping[str, int] = field(default_factory=dict)
    """As much of `announced` as is known to be here."""
    settling: bool = False
    refused: bool = False
    """Whether the store holds what the region wrote after it had left: nobody takes it any more."""

    @property
    def origin(self) -> Origin:
        """Under which the region numbers now."""
        return origin_of(self.region, self.numbering.incarnation)

    @property
    def incarnation(self) -> int | None:
        """The number of `origin`, once it is durable."""
        return self.numbering.incarnation if self.known and self.begins is None else None

    @property
    def unheard(self) -> list[str]:
        """Peers of which nothing was heard since the start."""
        return sorted(self.peers - self.heard - self.forgotten)

    @property
    def former(self) -> dict[str, int]:
        """What peers announced of earlier incarnations."""
        return {origin: seq for origin, seq in self.announced.items() if origin != self.origin}

    @property
    def pending(self) -> bool:
        """Whether no entry may be numbered yet."""
        return not self.known or self.begins is not None or self.refused or not (self.over or self.fresh)

    @property
    def recovered(self) -> bool:
        """Whether what peers hold of former incarnations is here, as far as peers were heard in time."""
        return self.over and self.known and self.begins is None and descends(self.covered, self.former)

    @property
    def settled(self) -> bool:
        """Whether nothing of former incarnations is still to come."""
        return self.known and (self.numbering.settled or not self.numbering.incarnation)

    @property
    def floor(self) -> int:
        """The region's floor, see `causality.floor`; 0 for none."""
        return self.numbering.incarnation if self.known and self.begins is None and self.settled else 0

    @property
    def reason(self) -> str:
        """What is waited for."""
        if self.refused:
            return f"{self.region} had left, and its store holds what it wrote since; start it with an empty store"
        if not self.known or self.begins is not None:
            return f"{self.region} is recording under which incarnation it numbers its entries"
        if not self.over:
            return f"{self.region} has just started and waits for {', '.join(self.unheard)}"
        return f"{self.region} is fetching what it had written before it lost its disk"


class Opened(msgspec.Struct, frozen=True):
    """What the store says: the record, when it was last restored, and the region's own positions."""

    numbering: Numbering | None
    restored_ms: int
    own: Mapping[str, int]
    founding: bool = False
    """Whether the deployment is new: an empty store is not a lost one."""


class Replaced(msgspec.Struct, frozen=True):
    """The database went back, or another node has begun an incarnation: look."""


class Ended(msgspec.Struct, frozen=True):
    """Where incarnations ended, and what of the region's own ones is here."""

    ends: Mapping[str, int]
    here: Mapping[str, int]


Event = Opened | Replaced | Ended | port.Heard | port.Forgotten | port.MembersChanged | port.Outcome


def step(state: StartupState, event: Event, now_s: float) -> port.Next[StartupState]:
    match event:
        case Opened():
            return _opened(state, event, now_s)
        case Ended():
            return _ended(state, event)
        case port.Heard(peer, vector, here):  # on a link that was opened since the incarnation began
            there, own = of_region(vector, state.region), of_region(here, state.region)
            heard = state.heard if peer in state.heard else state.heard | {peer}
            announced, covered = merge(state.announced, there), merge(state.covered, own)
            if (heard, announced, covered) != (state.heard, state.announced, state.covered):
                state = replace(state, heard=heard, announced=announced, covered=covered)
            if not state.known or state.begins is not None or not _knows_more(state, there, own):
                return _looked(state)
            # Another node of this region may have written them a moment ago.
            return replace(state, doubted=True), (port.RefreshPosition(),)
        case port.Refreshed(here):
            state, own = replace(state, doubted=False), of_region(here, state.region)
            state = replace(state, covered=merge(state.covered, own))
            if not state.known or state.begins is not None or not _knows_more(state, state.announced, own):
                return _looked(state)
            return _begun(state, f"a peer knew more of {state.origin}")
        case port.Woken():
            if state.begins is not None:
                return state, (port.Commit(state.begins),)
            over = state.over or now_s >= state.until_s
            state = replace(state, over=over, awaited={}, settling=False)
            effects: tuple[port.Effect, ...] = () if over else (port.WakeAt(state.until_s),)
            if not state.known:
                effects += (port.ReadState(*STATE),)
            if state.doubted:
                effects += (port.RefreshPosition(),)
            return _looked(state, effects)
        case port.Covered():
            return _looked(replace(state, covered=merge(state.covered, state.awaited)))
        case port.Committed(Renumber()):
            return state, (port.ReadState(*STATE),)
        case port.Committed(Settle(incarnation)):
            numbering = state.numbering
            if numbering.incarnation == incarnation:
                numbering = msgspec.structs.replace(numbering, settled=True)
            return replace(state, numbering=numbering), ()
        case port.StateRead(value):
            return _recorded(state, numbering_of(value) or Numbering(), now_s)
        case Replaced():
            state = replace(state, known=False, doubted=False, heard=frozenset(), settling=False)
            return replace(state, announced={}, awaited={}, covered={}), (port.ReadState(*STATE),)
        case port.MembersChanged(peers):
            return _looked(replace(state, peers=peers, heard=state.heard & peers))
        case port.Forgotten(peer):
            return _looked(replace(state, forgotten=state.forgotten | {peer}))
        case port.Failed():
            return state, (port.WakeAt(now_s + RETRY_S),)
        case _:
            raise AssertionError(f"the start-up check never asks for {event}")


def _opened(state: StartupState, found: Opened, now_s: float) -> port.Next[StartupState]:
    recorded = found.numbering or Numbering()
    state = replace(state, numbering=recorded, known=True, until_s=now_s + state.patience_s)
    if found.restored_ms > recorded.restored_ms:
        return _begun(state, "the store was restored from a backup", found.restored_ms, found.own)
    if found.numbering is None and not found.own and not found.founding:
        return _begun(state, "the store was empty")
    return _looked(state, (port.WakeAt(state.until_s),))


def _begun(
    state: StartupState, cause: str, restored_ms: int = 0, own: Mapping[str, int] | None = None
) -> port.Next[StartupState]:
    known = merge(state.announced, own or {})
    begins = Renumber(state.region, cause, state.numbering.incarnation, restored_ms, known)
    return replace(state, begins=begins), (port.Commit(begins),)


def _ended(state: StartupState, found: Ended) -> port.Next[StartupState]:
    """The others may count the present incarnation as over: the region has left, and came back."""
    ends = of_region(found.ends, state.region)
    last = max(map(incarnation_of, ends), default=-1)
    if state.incarnation is None or state.incarnation > last:
        return state, ()
    own = of_region(found.here, state.region)
    if any(seq > ends.get(origin, 0) for origin, seq in own.items() if incarnation_of(origin) <= last):
        return replace(state, refused=True), ()
    return _begun(state, "it had left and came back", own=ends)


def _recorded(state: StartupState, numbering: Numbering, now_s: float) -> port.Next[StartupState]:
    state, begins = replace(state, numbering=numbering, known=True, settling=False), state.begins
    if begins is None:
        return _looked(state, (port.WakeAt(state.until_s),))
    if begins.after is not None and numbering.incarnation <= begins.after:
        return state, (port.WakeAt(now_s + RETRY_S),)  # the database was replaced before it was durable
    # Peers are to count what they hold of earlier incarnations, without what is still on its way.
    state = replace(state, begins=None, fresh=True, doubted=False, heard=frozenset())
    return _looked(state, (port.WakeAt(state.until_s), port.RenewLinks()))


def _knows_more(state: StartupState, there: Mapping[str, int], own: Mapping[str, int]) -> bool:
    return there.get(state.origin, 0) > own.get(state.origin, 0)


def _looked(state: StartupState, effects: tuple[port.Effect, ...] = ()) -> port.Next[StartupState]:
    """What follows from what is known by now."""
    if not state.known or state.begins is not None:
        return state, effects
    all_heard = not (state.unheard or state.doubted)
    if all_heard and not state.over:
        state = replace(state, over=True)
    former = state.former
    if not descends(state.covered, former):
        if former == state.awaited:
            return state, effects
        return replace(state, awaited=former), (*effects, port.AwaitCovered(former))
    if all_heard and not (state.settled or state.settling):
        return replace(state, settling=True), (
            *effects,
            port.Commit(Settle(state.numbering.incarnation)),
        )
    return state, effects
