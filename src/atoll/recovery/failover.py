"""Failover recovery: another database has taken the place of a region's while its nodes run.

A standby was promoted, or a copy put there. What was acknowledged last may be missing in it, while peers hold it
already. So each node, by itself, goes back to the database's position and opens every link anew. Peers then drop what
they received and have not stored yet. The node takes no write before all peers were heard and the region's own entries
are back. Reads continue. The store then records the history as taken up, which other nodes and later runs go by.

The same database, started again, is handled in the same way. Then peers are not waited for longer than at a start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from atoll.causality.origin import of_region
from atoll.causality.vector import descends, merge
from atoll.protocol import port

RETRY_S = 0.5
"""Between two attempts while something fails, and between two looks whether another node has come through."""


@dataclass(frozen=True, slots=True)
class FailoverState:
    """Of one node. A round leads through the phases in their order; a change of history begins a new one."""

    region: str
    peers: frozenset[str]
    patience_s: float
    phase: Literal[
        "trusting", "rewinding", "listening", "comparing", "catching up", "looking", "recording", "failed"
    ] = "trusting"
    history: str = ""
    """The one that the database is in."""
    lossy: bool = False
    """Whether commits are missing for certain."""
    awaited: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    """Peers that are gone for good: nobody waits for them."""
    own: Mapping[str, int] = field(default_factory=dict)
    """The region's own origins, by what the peers hold."""
    clock_ms: int = 0
    """How far the database's clock had come (unix milliseconds)."""
    until_s: float = 0.0
    """So long peers are waited for where no commits can be missing."""
    fault: str = ""
    turns: int = 0
    """How often the database's place was taken."""
    taken_up: int = 0
    """How often a history was taken up."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """The region's own positions when it last took a history up: what it had given out beyond is gone for good."""

    @property
    def pending(self) -> bool:
        """Whether no write may be taken."""
        return self.phase != "trusting"

    @property
    def unheard(self) -> frozenset[str]:
        return self.awaited - self.forgotten

    @property
    def reason(self) -> str:
        """What is waited for."""
        if self.fault:
            return f"the database of {self.region} was replaced, and the region cannot serve: {self.fault}"
        waiting = ", ".join(sorted(self.unheard))
        what = f"waits for {waiting}" if waiting else "is fetching its own entries"
        return f"the database of {self.region} was replaced or started again, and the region {what}"


class Opened(msgspec.Struct, frozen=True):
    """The node has started on a database in this history, and the region last took up `taken_up`."""

    history: str
    taken_up: str
    own: Mapping[str, int]


class HistoryChanged(msgspec.Struct, frozen=True):
    """The database is in this history now. `lossy`: it lacks what this node had seen."""

    history: str
    lossy: bool = False


Event = Opened | HistoryChanged | port.Heard | port.Forgotten | port.MembersChanged | port.Outcome


def step(state: FailoverState, event: Event, now_s: float) -> port.Next[FailoverState]:
    match event:
        case Opened(history, taken_up, own):
            if _line(history) != _line(taken_up):
                return step(state, HistoryChanged(history), now_s)
            return replace(state, history=history, kept=own), (port.Trust(history),)
        case HistoryChanged(history, lossy):
            if history == state.history and not lossy:
                return state, ()
            lossy = lossy or state.lossy
            state = replace(state, history=history, lossy=lossy, turns=state.turns + 1)
            return replace(state, phase="rewinding"), (port.Rewind(),)
        case port.Heard(peer, vector):  # on a link that was opened since
            if peer not in state.awaited:
                return state, ()
            awaited, own = state.awaited - {peer}, merge(state.own, of_region(vector, state.region))
            return _heard_all(replace(state, awaited=awaited, own=own))
        case port.MembersChanged(peers):
            return _heard_all(replace(state, peers=peers, awaited=state.awaited & peers))
        case port.Forgotten(peer):
            return _heard_all(replace(state, forgotten=state.forgotten | {peer}))
        case port.Failed():
            if state.phase == "trusting":
                return state, ()
            return replace(state, phase="failed"), (port.WakeAt(now_s + RETRY_S),)
        case _:
            return _advanced(state, event, now_s)


def _advanced(state: FailoverState, event: port.Outcome, now_s: float) -> port.Next[FailoverState]:
    """What this phase waits for has come. An outcome of an earlier round leads nowhere."""
    match state.phase, event:
        case "rewinding", port.Rewound(clock_ms):
            # Links are renewed after the rewind: their requests say what is left of the region.
            until_s = now_s + state.patience_s
            state = replace(state, awaited=state.peers, own={}, clock_ms=clock_ms, until_s=until_s)
            after, effects = _heard_all(replace(state, phase="listening"))
            return after, (port.RenewLinks(), *effects, port.WakeAt(now_s + RETRY_S))
        case "listening", port.Woken():
            if now_s < state.until_s:
                return state, (port.WakeAt(now_s + RETRY_S),)
            return state, (port.ReadHistory(),)
        case "listening", port.HistoryRead(taken_up):
            # Where commits may be missing every peer is waited for, unless another node has come through.
            if _may_lack(state, taken_up):
                return state, (port.WakeAt(now_s + RETRY_S),)
            return replace(state, phase="comparing"), (port.CompareHistories(),)
        case "comparing", port.Compared(""):
            return replace(state, phase="catching up", fault=""), (port.AwaitCovered(state.own),)
        case "comparing", port.Compared(fault):
            return replace(state, phase="failed", fault=fault), (port.WakeAt(now_s + RETRY_S),)
        case "catching up", port.Covered():
            return replace(state, phase="looking"), (port.ReadHistory(),)
        case "looking", port.HistoryRead(taken_up, own):
            if _may_lack(state, taken_up):
                return replace(state, phase="recording"), (port.TakeUp(state.history, state.clock_ms),)
            return _trusted(state, own)
        case "recording", port.TakenUp(own):
            return _trusted(state, own)
        case "failed", port.Woken():
            return replace(state, phase="rewinding"), (port.Rewind(),)
        case _:
            return state, ()


def _heard_all(state: FailoverState) -> port.Next[FailoverState]:
    if state.phase != "listening" or state.unheard:
        return state, ()
    return replace(state, phase="comparing"), (port.CompareHistories(),)


def _trusted(state: FailoverState, own: Mapping[str, int]) -> port.Next[FailoverState]:
    assert descends(own, state.own), "numbers that peers hold are not given out again"
    state = replace(state, phase="trusting", lossy=False, awaited=frozenset(), kept=own)
    return replace(state, taken_up=state.taken_up + 1), (port.Trust(state.history),)


def _may_lack(state: FailoverState, taken_up: str) -> bool:
    return state.lossy or _line(taken_up) != _line(state.history)


def _line(history: str) -> str:
    """Without the run."""
    return history.rpartition("/")[0]
