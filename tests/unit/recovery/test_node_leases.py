from __future__ import annotations

from atoll.errors import StoreUnreachable
from atoll.protocol import port
from atoll.recovery.node_leases import Claimed, LeasesState, Released, step

LEASE_S = 3.0
ALL = ("link b", "link c", "link d")


class Node:
    """Node n1 of a region, at second 0, and what it has asked for last."""

    def __init__(self) -> None:
        self.state = LeasesState("n1", ALL, LEASE_S)
        self.asked: tuple[port.Effect, ...] = ()

    def meets(self, event: Claimed | Released | port.Outcome) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, 0.0)
        return self.asked

    def takes(self, *others: str, granted: set[str] | None = None) -> tuple[port.Effect, ...]:
        """A round beside these other nodes; all that is asked for is granted, or just so much."""
        assert self.meets(port.Woken()) == (port.ReadHolders(), port.WakeAt(LEASE_S / 3))
        (lease,) = self.meets(port.HoldersRead({f"present: {node}": node for node in others}))
        assert isinstance(lease, port.Lease)
        return self.meets(
            port.Leased(lease.names, dict.fromkeys(lease.names if granted is None else granted, 1))
        )


def test_a_node_that_is_alone_holds_all() -> None:
    it = Node()
    assert it.takes() == (port.ReviewLinks(),)
    assert it.state.held.keys() == set(ALL)
    assert it.takes() == ()  # renewed


def test_nodes_come_to_the_same_spread_by_themselves() -> None:
    it = Node()
    it.takes("n0", "n2")
    assert it.state.held.keys() == {"link c"}


def test_links_let_go_of_what_is_given_back() -> None:
    it = Node()
    it.takes()
    assert it.takes("n2") == (port.ReviewLinks(), port.GiveBack(("link c",)))
    assert it.state.held.keys() == {"link b", "link d"}


def test_what_another_node_still_holds_is_not_had() -> None:
    it = Node()
    it.takes(granted={"link b"})
    assert it.state.held.keys() == {"link b"}


def test_a_node_that_was_paused_learns_that_it_holds_nothing_any_more() -> None:
    it = Node()
    it.meets(Claimed("machine 0", 1))
    it.takes()
    it.takes(granted=set())
    assert (it.state.held, it.state.claimed) == ({}, frozenset())


def test_what_was_claimed_is_renewed_until_it_is_released() -> None:
    it = Node()
    it.meets(Claimed("machine 0", 1))
    it.takes()
    assert "machine 0" in it.state.held
    it.meets(Released("machine 0"))
    it.takes()
    assert it.state.held.keys() == set(ALL)


def test_what_is_claimed_while_the_store_answers_stays_claimed() -> None:
    it = Node()
    it.meets(port.HoldersRead({}))
    (lease,) = it.asked
    assert isinstance(lease, port.Lease)
    it.meets(Claimed("machine 0", 1))
    it.meets(port.Leased(lease.names, dict.fromkeys(lease.names, 1)))
    assert "machine 0" in it.state.claimed & it.state.held.keys()


def test_a_store_that_does_not_answer_takes_nothing_away() -> None:
    it = Node()
    it.takes()
    it.meets(port.Failed(port.ReadHolders(), StoreUnreachable("no")))
    assert it.state.held.keys() == set(ALL)
