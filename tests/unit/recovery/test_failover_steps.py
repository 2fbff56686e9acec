"""The decisions of failover recovery, one event at a time; with real regions: `test_failover.py`."""

from __future__ import annotations

import pytest

from atoll.errors import StoreUnreachable
from atoll.protocol import port
from atoll.recovery.failover import (
    RETRY_S,
    Event,
    FailoverState,
    HistoryChanged,
    Opened,
    step,
)

FIRST, SECOND, AGAIN = "cluster/1/0", "cluster/2/5", "cluster/1/9"
PATIENCE_S = 3.0


class Node:
    """A node of region a, opened in the first history, and what it has asked for last."""

    def __init__(self, *peers: str) -> None:
        self.state = FailoverState("a", frozenset(peers), PATIENCE_S)
        self.asked: tuple[port.Effect, ...] = ()
        self.now_s = 0.0
        self.meets(Opened(FIRST, FIRST, {"a": 4}))

    def meets(self, event: Event) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, self.now_s)
        return self.asked

    def replaced(self, history: str = SECOND) -> None:
        """Another database is there, and the links were opened anew."""
        self.meets(HistoryChanged(history))
        assert self.asked == (port.Rewind(),)
        self.meets(port.Rewound(77))
        assert self.asked[0] == port.RenewLinks()

    def caught_up(self) -> None:
        """All peers hold nothing more, and know the same entries."""
        for peer in sorted(self.state.awaited):
            self.meets(port.Heard(peer, {"a": 3}, {}))
        self.meets(port.Compared(""))
        self.meets(port.Covered())


def test_nobody_waits_for_a_peer_that_has_left() -> None:
    it = Node("b", "c")
    it.replaced()
    it.meets(port.Heard("b", {"a": 5}, {}))
    assert it.meets(port.MembersChanged(frozenset({"b"}))) == (port.CompareHistories(),)
    it.meets(port.Compared(""))
    assert it.asked == (port.AwaitCovered({"a": 5}),)


def test_the_history_that_was_taken_up_is_trusted_at_once() -> None:
    it = Node("b")
    assert it.asked == (port.Trust(FIRST),)
    assert (it.state.pending, it.state.kept) == (False, {"a": 4})
    assert it.meets(HistoryChanged(FIRST)) == ()


def test_a_start_on_another_database_is_a_failover() -> None:
    it = Node("b")
    assert it.meets(Opened(SECOND, FIRST, {"a": 4})) == (port.Rewind(),)
    assert it.state.pending


def test_what_peers_hold_comes_back_before_the_history_is_taken_up() -> None:
    it = Node("b", "c")
    it.replaced()
    it.meets(port.Heard("b", {"a": 5}, {}))
    assert "waits for c" in it.state.reason
    assert it.meets(port.Heard("c", {"a": 3}, {})) == (port.CompareHistories(),)
    assert it.meets(port.Compared("")) == (port.AwaitCovered({"a": 5}),)
    assert it.meets(port.Covered()) == (port.ReadHistory(),)
    assert it.meets(port.HistoryRead(FIRST, {"a": 5})) == (port.TakeUp(SECOND, 77),)
    assert it.state.pending  # until that is durable
    assert it.meets(port.TakenUp({"a": 5})) == (port.Trust(SECOND),)
    assert (it.state.pending, it.state.kept, it.state.turns, it.state.taken_up) == (
        False,
        {"a": 5},
        1,
        1,
    )


def test_what_another_node_has_taken_up_is_not_taken_up_again() -> None:
    it = Node("b")
    it.replaced()
    it.caught_up()
    assert it.meets(port.HistoryRead(SECOND, {"a": 3})) == (port.Trust(SECOND),)


def test_a_node_that_saw_what_is_lost_takes_it_up_all_the_same() -> None:
    it = Node("b")
    it.meets(HistoryChanged(FIRST, lossy=True))
    it.meets(port.Rewound(77))
    it.caught_up()
    assert it.meets(port.HistoryRead(FIRST, {"a": 3})) == (port.TakeUp(FIRST, 77),)


def test_every_peer_is_waited_for_where_commits_may_be_missing() -> None:
    it = Node("b")
    it.replaced()
    for at_s in (1.0, 4.0, 400.0):
        it.now_s = at_s
        if it.meets(port.Woken()) == (port.ReadHistory(),):
            assert it.meets(port.HistoryRead(FIRST, {"a": 3})) == (port.WakeAt(at_s + RETRY_S),)
    assert "waits for b" in it.state.reason
    assert it.meets(port.Forgotten("b")) == (port.CompareHistories(),)


def test_a_database_that_was_only_started_again_is_not_waited_for_for_ever() -> None:
    it = Node("b")
    it.replaced(AGAIN)
    it.now_s = PATIENCE_S - 0.1
    assert it.meets(port.Woken()) == (port.WakeAt(it.now_s + RETRY_S),)
    it.now_s = PATIENCE_S
    assert it.meets(port.Woken()) == (port.ReadHistory(),)
    assert it.meets(port.HistoryRead(FIRST, {"a": 3})) == (port.CompareHistories(),)


@pytest.mark.parametrize("so_far", range(5))
def test_another_change_begins_anew(so_far: int) -> None:
    it = Node("b")
    it.replaced()
    for event in (
        port.Heard("b", {"a": 3}, {}),
        port.Compared(""),
        port.Covered(),
        port.HistoryRead(FIRST, {"a": 3}),
    )[:so_far]:
        it.meets(event)
    assert it.meets(HistoryChanged("cluster/3/0")) == (port.Rewind(),)
    for stale in (
        port.Compared(""),
        port.Covered(),
        port.HistoryRead(SECOND, {"a": 3}),
        port.TakenUp({"a": 3}),
    ):
        assert it.meets(stale) == ()
    assert it.state.pending


def test_two_servers_that_both_took_writes_are_found_out() -> None:
    it = Node("b")
    it.replaced()
    it.meets(port.Heard("b", {"a": 3}, {}))
    assert it.meets(port.Compared("entry 2 of a is another one at b")) == (port.WakeAt(RETRY_S),)
    assert "cannot serve: entry 2" in it.state.reason
    assert it.meets(port.Woken()) == (port.Rewind(),)


def test_what_fails_begins_anew() -> None:
    it = Node("b")
    it.replaced()
    it.meets(port.Heard("b", {"a": 3}, {}))
    assert it.meets(port.Failed(port.CompareHistories(), StoreUnreachable("no"))) == (port.WakeAt(RETRY_S),)
    assert it.meets(port.Woken()) == (port.Rewind(),)
    assert it.meets(port.Failed(port.Rewind(), StoreUnreachable("no"))) == (port.WakeAt(RETRY_S),)
    assert it.meets(port.Woken()) == (port.Rewind(),)
