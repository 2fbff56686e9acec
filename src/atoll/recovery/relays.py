"""Relays: whose entries a region asks of other peers than of the origin itself.

A peer may hold entries of an origin that the origin has lost with its disk, while the two do not hear each other. So
every peer that announces more of an origin than the origin announces itself is asked for it. That also happens for a
moment whenever a peer is faster than the origin. So it counts only after a time in which nothing of the origin came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from atoll.causality.origin import is_floor, of_region, region_of
from atoll.protocol import port

AFTER_S = 1.0

Relay = tuple[str, str]
"""(peer, origin)"""


@dataclass(frozen=True, slots=True)
class RelayState:
    """Of one node."""

    region: str
    itself: Mapping[str, int] = field(default_factory=dict)
    """origin → how much of it its own region last announced."""
    noticed: Mapping[Relay, tuple[int, float]] = field(default_factory=dict)
    """Peers that announced more: the origin's position here, and since when it has stood still."""
    asked: frozenset[Relay] = frozenset()


Event = port.Heard | port.MembersChanged | port.Outcome


def step(state: RelayState, event: Event, now_s: float) -> port.Next[RelayState]:
    match event:
        case port.MembersChanged(peers):
            # What a region that has left said of itself bounds nobody: its peers hold all that there is.
            itself = {origin: seq for origin, seq in state.itself.items() if region_of(origin) in peers}
            noticed = {relay: since for relay, since in state.noticed.items() if relay[0] in peers}
            still = frozenset(relay for relay in state.asked if relay[0] in peers)
            return replace(state, itself=itself, noticed=noticed, asked=still), ()
        case port.Heard(peer, announced, here):
            # What a region no longer announces of itself is lost with its disk: it bounds nobody.
            others = {o: seq for o, seq in state.itself.items() if region_of(o) not in (peer, state.region)}
            itself = {**others, **of_region(announced, peer), **of_region(here, state.region)}
            noticed, asked = dict(state.noticed), set(state.asked)
            for origin, seq in announced.items():
                if region_of(origin) == peer or is_floor(origin):
                    continue
                relay, position = (peer, origin), here.get(origin, 0)
                if seq <= max(position, itself.get(origin, 0)):
                    noticed.pop(relay, None)
                    asked.discard(relay)
                elif relay not in noticed or (relay not in asked and noticed[relay][0] != position):
                    noticed[relay] = (position, now_s)
                elif now_s - noticed[relay][1] >= AFTER_S:
                    asked.add(relay)
            after = replace(state, itself=itself, noticed=noticed, asked=frozenset(asked))
            if after == state:
                return state, ()
            return after, () if after.asked == state.asked else (port.ReviewLinks(),)
        case _:
            raise AssertionError(f"relays never ask for {event}")
