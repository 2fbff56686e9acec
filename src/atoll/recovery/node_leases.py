"""Node leases: what one node does for all nodes of its region, such as to pull from a peer.

Nodes that share a store share these by leases in it, renewed three times before they run out. A node that ends gives
them back; one that dies or is paused loses them. Nothing depends on it that two nodes never do the same at once.
Entries that come twice are dropped by their dot, and identifiers have a counter of their own that tells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from atoll.causality.types import Generation
from atoll.protocol import port

_PRESENT = "present: "
"""A lease that each node has of its own: so the others know that it is there."""


@dataclass(frozen=True, slots=True)
class LeasesState:
    """Of one node."""

    node: str
    wanted: tuple[str, ...]
    """What the nodes of the region share out among them."""
    lease_s: float
    held: Mapping[str, Generation] = field(default_factory=dict)
    """lease → its generation: see `commit.work.Fence`."""
    claimed: frozenset[str] = frozenset()
    """What this node holds beside its share, for as long as it can."""
    share: tuple[str, ...] = ()

    @property
    def presence(self) -> str:
        return _PRESENT + self.node


class Claimed(msgspec.Struct, frozen=True):
    """The node holds this as well from now on, in this generation."""

    name: str
    generation: Generation


class Wanted(msgspec.Struct, frozen=True):
    """What the nodes share out among them is something else by now."""

    names: tuple[str, ...]


class Released(msgspec.Struct, frozen=True):
    """The node holds what it had claimed no longer."""

    name: str


Event = Claimed | Released | Wanted | port.Outcome


def step(state: LeasesState, event: Event, now_s: float) -> port.Next[LeasesState]:
    match event:
        case port.Woken():
            return state, (port.ReadHolders(), port.WakeAt(now_s + state.lease_s / 3))
        case port.HoldersRead(holders):
            share = _share(state, holders)
            names = (state.presence, *share, *sorted(state.claimed))
            return replace(state, share=share), (port.Lease(names, state.lease_s),)
        case port.Leased(asked, granted):
            assert granted.keys() <= frozenset(asked), "a store grants what it was asked for"
            return _leased(state, asked, granted)
        case Claimed(name, generation):
            held = {**state.held, name: generation}
            return replace(state, claimed=state.claimed | {name}, held=held), ()
        case Released(name):
            held = {other: generation for other, generation in state.held.items() if other != name}
            return replace(state, claimed=state.claimed - {name}, held=held), ()
        case Wanted(names):
            # What is no longer wanted is not renewed, and runs out.
            return replace(state, wanted=names), (port.ReadHolders(), port.WakeAt(now_s + state.lease_s / 3))
        case port.GivenBack() | port.Failed():
            return state, ()  # while the store does not answer, this node goes on as it was
        case _:
            raise AssertionError(f"node leases never ask for {event}")


def _leased(
    state: LeasesState, asked: Collection[str], granted: Mapping[str, Generation]
) -> port.Next[LeasesState]:
    # What was claimed since it was asked is held, and not in the answer.
    held = {name: generation for name, generation in granted.items() if name != state.presence}
    held |= {name: state.held[name] for name in state.claimed.difference(asked)}
    surplus = tuple(name for name in state.wanted if name in state.held and name not in state.share)
    after = replace(state, held=held, claimed=state.claimed & held.keys())
    effects: tuple[port.Effect, ...] = () if held.keys() == state.held.keys() else (port.ReviewLinks(),)
    # The links let go of what is given back before another node may take it.
    return after, (*effects, port.GiveBack(surplus)) if surplus else effects


def _share(state: LeasesState, holders: Mapping[str, str]) -> tuple[str, ...]:
    """In turn, over the nodes that are there: all come to the same spread by themselves."""
    present = {holder for name, holder in holders.items() if name.startswith(_PRESENT)}
    nodes = sorted(present | {state.node})
    return tuple(name for at, name in enumerate(state.wanted) if nodes[at % len(nodes)] == state.node)
