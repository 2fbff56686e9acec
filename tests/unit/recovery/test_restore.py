from __future__ import annotations

import pytest

from atoll.errors import RegionUnreachable
from atoll.protocol import port
from atoll.recovery.restore import RECOVERED, RESTORED, RETRY_S, Event, RestoreState, counters, step, without

NOW_S = 5.0


class Restoring:
    """A region a, restored at 50, and what it has asked for last."""

    def __init__(self, *peers: str, **stored: int) -> None:
        self.state = RestoreState("a", frozenset(peers))
        self.asked: tuple[port.Effect, ...] = ()
        self.meets(port.CountersRead(dict.fromkeys(counters(peers), 0) | {RESTORED: 50} | stored))

    def meets(self, event: Event) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, NOW_S)
        return self.asked


def test_a_region_that_was_not_restored_waits_for_nobody() -> None:
    it = Restoring("b", **{RESTORED: 0})
    assert (it.state.pending, it.asked) == (False, ())
    it = Restoring("b", **{RECOVERED: 50})
    assert not it.state.pending


def test_it_holds_back_until_all_peers_were_heard_and_what_they_had_has_come() -> None:
    it = Restoring("b", "c")
    assert it.meets(port.Heard("b", {"a": 7, "b": 2}, {})) == ()
    assert "waits for c" in it.state.reason
    assert it.meets(port.Heard("c", {"a": 9, "c": 1}, {})) == (port.CompareHistories(),)
    assert (
        it.meets(port.Heard("c", {"a": 9, "c": 1000}, {})) == ()
    )  # what they write meanwhile is not waited for
    assert "is catching up" in it.state.reason
    assert it.meets(port.Compared("")) == (port.AwaitCovered({"a": 9, "b": 2, "c": 1}),)
    assert it.state.pending


def test_nobody_waits_for_a_peer_that_has_left() -> None:
    it = Restoring("b", "c")
    it.meets(port.Heard("b", {"a": 7}, {}))
    assert it.meets(port.MembersChanged(frozenset({"b"}))) == (port.CompareHistories(),)
    it.meets(port.Compared(""))
    assert (
        it.meets(port.MembersChanged(frozenset({"b", "d"}))) == ()
    )  # one that joins now has nothing of before
    assert it.state.phase == "catching up"


def test_it_serves_once_the_mark_is_durable() -> None:
    it = Restoring("b")
    it.meets(port.Heard("b", {}, {}))
    it.meets(port.Compared(""))
    assert it.meets(port.Covered()) == (port.RaiseCounters({RECOVERED: 50}),)
    assert it.state.pending
    assert it.meets(port.CountersRaised({RECOVERED: 50})) == ()
    assert not it.state.pending


def test_a_restart_in_between_begins_anew() -> None:
    Restoring("b", "c").meets(port.Heard("b", {}, {}))
    assert "waits for b, c" in Restoring("b", "c").state.reason


def test_peers_that_are_gone_are_not_waited_for() -> None:
    it = Restoring("b", "c", **{without("b"): 50, without("c"): 50})
    assert it.asked == (port.CompareHistories(),)


def test_gone_at_an_earlier_restore_is_not_gone_now() -> None:
    it = Restoring("b", **{without("b"): 40})
    assert it.asked == ()
    assert it.state.pending


def test_a_region_without_peers_serves_at_once() -> None:
    it = Restoring()
    it.meets(port.Compared(""))
    assert it.asked == (port.AwaitCovered({}),)


def test_a_copy_of_an_abandoned_history_never_serves() -> None:
    it = Restoring("b")
    it.meets(port.Heard("b", {}, {}))
    for _ in range(3):
        assert it.meets(port.Compared("entry 7 of a is another one at b")) == (port.WakeAt(NOW_S + RETRY_S),)
        assert "cannot serve: entry 7 of a is another one at b" in it.state.reason
        assert it.meets(port.Woken()) == (port.CompareHistories(),)
    assert it.meets(port.Compared("")) == (port.AwaitCovered({}),)
    assert "cannot serve" not in it.state.reason


@pytest.mark.parametrize("done", [(), (port.Compared(""),), (port.Compared(""), port.Covered())])
def test_what_failed_is_tried_again(done: tuple[port.Outcome, ...]) -> None:
    it = Restoring("b")
    it.meets(port.Heard("b", {}, {}))
    for event in done:
        it.meets(event)
    asked = it.asked
    assert it.meets(port.Failed(asked[0], RegionUnreachable("cut off"))) == (port.WakeAt(NOW_S + RETRY_S),)
    assert it.meets(port.Woken()) == asked
