"""Start-up position check: before its first write a region hears what its peers hold of its own entries.

Its disk may be lost, or an old copy. Then peers hold entries of its own that it must not number anew. While they hold
some that it lacks, it asks for them everywhere and takes no writes. What a peer was heard to hold is kept in the store.
So a restart at which that peer is out of reach changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from atoll.protocol import port


def held_by(peer: str) -> str:
    """The counter that keeps the region's own position as a peer announced it."""
    return f"own position at {peer}"


def void_at(peer: str) -> str:
    """The counter up to which `held_by` does not count: the peer is gone for good."""
    return f"own position void at {peer}"


@dataclass(frozen=True, slots=True)
class StartupState:
    """Of one node."""

    region: str
    peers: frozenset[str]
    patience_s: float
    heard: frozenset[str] = frozenset()
    over: bool = False
    """Whether every peer was heard, or waited for long enough."""
    held: Mapping[str, int] = field(default_factory=dict)
    """peer → the region's own position there."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """As much of `held` as is durable here."""
    recovering: bool = False
    """Whether peers are asked for this region's own entries."""

    @property
    def pending(self) -> bool:
        """Whether peers are waited for."""
        return not self.over

    @property
    def own_elsewhere(self) -> int:
        """The region's own position, by what the peers hold."""
        return max(self.held.values(), default=0)

    @property
    def unheard(self) -> list[str]:
        """Peers of which nothing was heard since the start."""
        return sorted(self.peers - self.heard)

    @property
    def reason(self) -> str:
        """What is waited for."""
        if not self.over:
            return f"{self.region} has just started and waits for {', '.join(self.unheard)}"
        return (
            f"{self.region} has lost entries that its peers hold, up to {self.own_elsewhere}; "
            "it takes no writes until it has them back"
        )


class Started(msgspec.Struct, frozen=True):
    """The links are open."""


class Rewound(msgspec.Struct, frozen=True):
    """The database is another one: every peer is heard anew."""


Event = Started | Rewound | port.Heard | port.Forgotten | port.MembersChanged | port.Outcome


def counters(peers: Iterable[str]) -> list[str]:
    """What to read of the store when the protocol is opened."""
    return [name for peer in peers for name in (held_by(peer), void_at(peer))]


def step(state: StartupState, event: Event, now_s: float) -> port.Next[StartupState]:
    match event:
        case port.CountersRead(found):
            held = {peer: found[held_by(peer)] for peer in sorted(state.peers)}
            held = {peer: seq for peer, seq in held.items() if seq > found[void_at(peer)]}
            return replace(state, held=held, kept=held, over=not state.peers), ()
        case Started():
            return state, () if state.over else (port.WakeAt(now_s + state.patience_s),)
        case port.Woken():
            return replace(state, over=True), ()
        case port.Heard(peer, vector, here):
            return _heard(state, peer, vector.get(state.region, 0), here.get(state.region, 0))
        case port.Refreshed(vector):
            if (state.own_elsewhere > vector.get(state.region, 0)) == state.recovering:
                return state, ()
            return replace(state, recovering=not state.recovering), (port.ReviewLinks(),)
        case port.CountersRaised(raised):
            kept = dict(state.kept)
            for peer in state.peers:
                kept[peer] = max(kept.get(peer, 0), raised.get(held_by(peer), 0))
            return replace(state, kept=kept), ()
        case Rewound():
            return replace(state, held={}), ()
        case port.MembersChanged(peers):
            left, state = state.peers - peers, replace(state, peers=peers, heard=state.heard & peers)
            held = {peer: seq for peer, seq in state.held.items() if peer in peers}
            void = {void_at(peer): state.held.get(peer, 0) for peer in sorted(left)}
            return _heard_all(replace(state, held=held), (port.RaiseCounters(void), port.RefreshPosition()))
        case port.Forgotten(peer):
            held = {other: seq for other, seq in state.held.items() if other != peer}
            gone = max(state.held.get(peer, 0), state.kept.get(peer, 0))
            state = replace(state, held=held, heard=state.heard | {peer})
            return _heard_all(state, (port.RaiseCounters({void_at(peer): gone}), port.RefreshPosition()))
        case port.Failed():
            return state, ()  # the next heartbeat brings it again
        case _:
            raise AssertionError(f"the start-up check never asks for {event}")


def _heard(state: StartupState, peer: str, there: int, here: int) -> port.Next[StartupState]:
    there = max(there, state.held.get(peer, 0))
    state = replace(state, heard=state.heard | {peer}, held={**state.held, peer: there})
    lacks = state.own_elsewhere > here
    effects: tuple[port.Effect, ...] = ()
    if there > here and there > state.kept.get(peer, 0):
        effects = (port.RaiseCounters({held_by(peer): there}),)
    if lacks != state.recovering:
        effects += (port.RefreshPosition(),)  # another node of this region may have written them a moment ago
    return _heard_all(state, effects)


def _heard_all(state: StartupState, effects: tuple[port.Effect, ...]) -> port.Next[StartupState]:
    if state.over or state.peers - state.heard:
        return state, effects
    return replace(state, over=True), (*effects, port.WakeAt(math.inf))
