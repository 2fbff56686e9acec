"""Restore recovery: a region whose store was restored from a backup serves nothing before it has caught up.

The copy is old. What was deleted since would show again, and the next write would take a number that peers know
as another entry. So nothing is read or written here before every peer was heard and all that they had then has
arrived. The marks lie in the store, so that a restart in between changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from atoll.causality import vector as vectors
from atoll.protocol import port

RETRY_S = 1.0
RESTORED = "restored_ms"
"""The counter that `atoll restore` raises: when it was, in unix milliseconds."""
RECOVERED = "recovered_ms"
"""The counter that says, equal to `RESTORED`, that the region has caught up since."""


def without(peer: str) -> str:
    """The counter that says, equal to `RESTORED`, that nobody waits for this peer: it is gone for good."""
    return f"restored_ms without {peer}"


@dataclass(frozen=True, slots=True)
class RestoreState:
    """Phases follow one another; a store that was not restored is `done` when it is opened."""

    region: str
    peers: frozenset[str]
    phase: Literal["closed", "listening", "comparing", "catching up", "recording", "done"] = "closed"
    awaited: frozenset[str] = frozenset()
    """Peers that were not heard yet."""
    target: Mapping[str, int] = field(default_factory=dict)
    """What the peers had when each was heard first."""
    restored_ms: int = 0
    fault: str = ""

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""
        return self.phase not in ("closed", "done")

    @property
    def reason(self) -> str:
        """What is waited for."""
        if self.fault:
            return f"{self.region} was restored from a backup and cannot serve: {self.fault}"
        awaited = ", ".join(sorted(self.awaited))
        waiting = f"waits for {awaited}" if awaited else "is catching up with its peers"
        return f"{self.region} was restored from a backup and {waiting}"


Event = port.Heard | port.MembersChanged | port.Outcome


def counters(peers: Iterable[str]) -> list[str]:
    """What to read of the store when the protocol is opened."""
    return [RESTORED, RECOVERED, *(without(peer) for peer in peers)]


def step(state: RestoreState, event: Event, now_s: float) -> port.Next[RestoreState]:
    match event:
        case port.CountersRead(found):
            return _opened(state, found)
        case port.Heard(peer, vector):
            if state.phase != "listening" or peer not in state.awaited:
                return state, ()  # what peers write meanwhile is not waited for
            target = vectors.merge(state.target, vector)
            return _compared_next(replace(state, awaited=state.awaited - {peer}, target=target))
        case port.MembersChanged(peers):
            state = replace(state, peers=peers, awaited=state.awaited & peers)
            return _compared_next(state) if state.phase == "listening" else (state, ())
        case port.Compared(""):
            # Entries are taken only of a history that is the peers' own.
            return replace(state, phase="catching up", fault=""), (port.AwaitCovered(state.target),)
        case port.Compared(fault):
            return replace(state, fault=fault), (port.WakeAt(now_s + RETRY_S),)
        case port.Covered():
            return replace(state, phase="recording"), (port.RaiseCounters({RECOVERED: state.restored_ms}),)
        case port.CountersRaised():
            assert not state.awaited, "a region serves only after every peer was heard"
            return replace(state, phase="done"), ()
        case port.Failed(_, error):
            fault = error.message if state.phase == "comparing" else ""
            return replace(state, fault=fault), (port.WakeAt(now_s + RETRY_S),)
        case port.Woken():
            return _again(state)
        case _:
            raise AssertionError(f"restore recovery never asks for {event}")


def _opened(state: RestoreState, found: Mapping[str, int]) -> port.Next[RestoreState]:
    restored_ms = found[RESTORED]
    if restored_ms <= found[RECOVERED]:
        return replace(state, phase="done"), ()
    awaited = frozenset(peer for peer in state.peers if found[without(peer)] != restored_ms)
    return _compared_next(replace(state, phase="listening", awaited=awaited, restored_ms=restored_ms))


def _compared_next(state: RestoreState) -> port.Next[RestoreState]:
    if state.awaited:
        return state, ()
    return replace(state, phase="comparing"), (port.CompareHistories(),)


def _again(state: RestoreState) -> port.Next[RestoreState]:
    match state.phase:
        case "comparing":
            return state, (port.CompareHistories(),)
        case "catching up":
            return state, (port.AwaitCovered(state.target),)
        case "recording":
            return state, (port.RaiseCounters({RECOVERED: state.restored_ms}),)
        case "closed" | "listening" | "done":
            return state, ()
