"""The decisions of the start-up check, one event at a time; with real regions: `region/test_startup_check.py`."""

from __future__ import annotations

import msgspec
import pytest

from atoll.errors import AtollError
from atoll.protocol import port
from atoll.recovery.numbering import STATE, Numbering, Renumber, Settle, numbering_of
from atoll.recovery.startup_check import RETRY_S, Event, Opened, Replaced, StartupState, step

FIRST = Numbering()
LATER = Numbering(7, 0)
OPENED = Opened(FIRST, 0, {"a": 3})


class Starting:
    """A node of region a, and what it has asked for last."""

    def __init__(self, *peers: str, opened: Opened = OPENED) -> None:
        self.state = StartupState("a", frozenset(peers), 3.0)
        self.asked: tuple[port.Effect, ...] = ()
        self.meets(opened)

    def meets(self, event: Event, now_s: float = 0.0) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, now_s)
        return self.asked

    def hears(self, peer: str, there: dict[str, int], here: dict[str, int]) -> tuple[port.Effect, ...]:
        """The peer holds so much of a, which itself has so much."""
        return self.meets(port.Heard(peer, there, here))

    def begins(self, numbering: Numbering) -> tuple[port.Effect, ...]:
        """What was asked for last is committed, and read."""
        (effect,) = self.asked
        assert isinstance(effect, port.Commit)
        assert self.meets(port.Committed(effect.step)) == (port.ReadState(*STATE),)
        return self.meets(port.StateRead(msgspec.msgpack.encode(numbering)))


def renumbered(asked: tuple[port.Effect, ...]) -> Renumber:
    (effect,) = asked
    assert isinstance(effect, port.Commit)
    assert isinstance(effect.step, Renumber)
    return effect.step


def test_writes_wait_until_every_peer_was_heard_or_for_a_time() -> None:
    it = Starting("b", "c")
    assert it.asked == (port.WakeAt(3.0),)
    it.hears("b", {}, {"a": 3})
    assert it.state.pending
    assert "waits for c" in it.state.reason
    it.meets(port.Woken(), 3.0)
    assert not it.state.pending
    heard = Starting("b", "c")
    heard.hears("b", {}, {"a": 3})
    heard.hears("c", {"a": 2}, {"a": 3})
    assert not heard.state.pending


def test_a_region_without_peers_waits_for_nobody() -> None:
    assert not Starting().state.pending


def test_an_empty_store_begins_anew_and_waits_for_nobody_to_write() -> None:
    it = Starting("b", "c", opened=Opened(None, 0, {}))
    assert renumbered(it.asked).after == 0
    assert it.state.pending
    assert it.begins(LATER) == (port.WakeAt(3.0), port.RenewLinks())
    assert it.state.origin == "a~7"
    assert not it.state.pending
    assert not it.state.recovered  # what has an owner waits for the peers, for a time
    it.meets(port.Woken(), 3.0)
    assert it.state.recovered
    assert not it.state.settled


def test_the_empty_store_of_a_new_deployment_is_no_lost_one() -> None:
    it = Starting("b", opened=Opened(None, 0, {}, founding=True))
    assert it.asked == (port.WakeAt(3.0),)
    assert it.state.origin == "a"


def test_a_restored_store_begins_anew_once() -> None:
    begun = renumbered(Starting("b", opened=Opened(Numbering(7, 40), 50, {"a~7": 3})).asked)
    assert (begun.after, begun.restored_ms, begun.known) == (7, 50, {"a~7": 3})
    assert Starting("b", opened=Opened(Numbering(8, 50), 50, {"a~7": 3})).asked == (port.WakeAt(3.0),)


def test_an_old_copy_of_a_disk_is_found_out_by_what_a_peer_holds() -> None:
    it = Starting("b", "c")
    assert it.hears("b", {"a": 4}, {"a": 3}) == (port.RefreshPosition(),)
    begun = renumbered(it.meets(port.Refreshed({"a": 3})))
    assert (begun.after, begun.known) == (0, {"a": 4})
    assert it.hears("c", {"a": 9}, {"a": 3}) == ()  # it is under way
    assert it.state.pending


def test_what_another_node_wrote_is_not_taken_for_lost() -> None:
    it = Starting("b")
    assert it.hears("b", {"a": 4}, {"a": 3}) == (port.RefreshPosition(),)
    assert it.state.pending  # until it is known
    assert it.meets(port.Refreshed({"a": 4})) == ()
    assert (it.state.pending, it.state.origin) == (False, "a")


def test_a_doubt_that_cannot_be_settled_is_looked_into_again() -> None:
    it = Starting("b")
    (effect,) = it.hears("b", {"a": 4}, {"a": 3})
    assert it.meets(port.Failed(effect, AtollError("away"))) == (port.WakeAt(RETRY_S),)
    assert port.RefreshPosition() in it.meets(port.Woken(), RETRY_S)


def test_what_a_former_incarnation_wrote_is_fetched_before_owned_documents_are_written() -> None:
    it = Starting("b", opened=Opened(None, 0, {}))
    it.begins(LATER)
    assert it.hears("b", {"a": 4}, {}) == (port.AwaitCovered({"a": 4}),)
    assert it.hears("b", {"a": 4}, {"a": 2}) == ()
    assert (it.state.pending, it.state.recovered, it.state.settled) == (False, False, False)
    assert it.meets(port.Covered()) == (port.Commit(Settle(7)),)
    assert (it.state.recovered, it.state.settled) == (True, False)
    it.meets(port.Committed(Settle(7)))
    assert it.state.settled


def test_peers_are_heard_anew_once_an_incarnation_has_begun() -> None:
    """What was on its way to them when they were heard before may have been stored since."""
    it = Starting("b", opened=Opened(LATER, 0, {"a~7": 4}))
    it.hears("b", {"a~7": 5}, {"a~7": 4})
    it.meets(port.Refreshed({"a~7": 4}))
    it.begins(Numbering(8, 0))
    it.meets(port.Covered())
    assert not it.state.settling
    it.hears("b", {"a~7": 6}, {"a~7": 5})
    assert it.asked == (port.AwaitCovered({"a~7": 6}),)


def test_nothing_is_settled_before_every_peer_was_heard() -> None:
    it = Starting("b", "c", opened=Opened(LATER, 0, {"a": 4}))
    it.hears("b", {"a": 4}, {"a": 4})
    it.meets(port.Woken(), 3.0)
    assert (it.state.recovered, it.state.settled) == (True, False)
    assert it.hears("c", {"a": 6}, {"a": 4}) == (port.AwaitCovered({"a": 6}),)
    assert not it.state.recovered
    assert it.hears("c", {"a": 6}, {"a": 6}) == (port.Commit(Settle(7)),)


def test_a_peer_that_is_gone_for_good_is_not_waited_for() -> None:
    it = Starting("b", "c", opened=Opened(LATER, 0, {"a": 4}))
    it.hears("b", {"a": 4}, {"a": 4})
    assert it.meets(port.Forgotten("c")) == (port.Commit(Settle(7)),)
    again = Starting("b", "c", opened=Opened(LATER, 0, {"a": 4}))
    again.hears("b", {"a": 4}, {"a": 4})
    assert again.meets(port.MembersChanged(frozenset("b"))) == (port.Commit(Settle(7)),)


def test_a_database_that_was_replaced_is_asked_before_anything_is_numbered() -> None:
    it = Starting("b")
    it.hears("b", {"a": 3}, {"a": 3})
    assert it.meets(Replaced()) == (port.ReadState(*STATE),)
    assert it.state.pending
    it.meets(port.StateRead(None))
    assert not it.state.pending


def test_an_incarnation_that_went_with_the_database_is_begun_again() -> None:
    it = Starting("b", opened=Opened(None, 0, {}))
    (effect,) = it.asked
    it.meets(Replaced())
    assert it.meets(port.StateRead(None)) == (port.WakeAt(RETRY_S),)
    assert it.state.pending
    assert it.meets(port.Woken(), RETRY_S) == (effect,)


def test_what_fails_is_tried_again() -> None:
    it = Starting("b", opened=Opened(None, 0, {}))
    (effect,) = it.asked
    assert it.meets(port.Failed(effect, AtollError("full")), 1.0) == (port.WakeAt(1.0 + RETRY_S),)
    assert it.meets(port.Woken(), 1.0 + RETRY_S) == (effect,)
    read = Starting("b")
    (reads,) = read.meets(Replaced())
    read.meets(port.Failed(reads, AtollError("away")))
    assert reads in read.meets(port.Woken(), RETRY_S)


def test_a_record_that_cannot_be_read_is_corrupt() -> None:
    assert numbering_of(None) is None
    with pytest.raises(AtollError, match="cannot be read"):
        numbering_of(b"\xff")
