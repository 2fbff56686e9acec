"""The decisions of snapshot install, one event at a time; with real regions: `tests/unit/region`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from atoll.commit.snapshot_page import RECORD, SnapshotPage
from atoll.commit.work import Fence
from atoll.errors import ClockAhead, CorruptEntry, FenceLost, RegionUnreachable
from atoll.protocol import port
from atoll.recovery.snapshot_install import (
    INSTALLED_AFTER,
    LEASE,
    Event,
    Opened,
    Replaced,
    TooLate,
    step,
)
from atoll.recovery.snapshot_record import KeepPages, MergePage, MoveRecord, Record
from atoll.recovery.snapshot_state import InstallState, Settings
from atoll.replication.messages import SnapshotPlace, SnapshotReply

NEXT = SnapshotPlace("audit")
PULLING = Record().next_round()
PULLED = replace(PULLING, steps=2)
INSTALLING = PULLED.moved("installing")
DONE = INSTALLING.moved("done")
PIECE = SnapshotPage()


def page(
    before: Mapping[str, int], after: Mapping[str, int], following: SnapshotPlace | None, **other: object
) -> SnapshotReply:
    found: dict[str, object] = {"incarnation": (1, 0), "declared": {"note": {}}, "clock": 9, "content": b""}
    found |= {"before": dict(before), "after": dict(after), "next": following} | other
    return SnapshotReply(**found)  # type: ignore[arg-type]  # its fields by name


class Node:
    """A node of region c, with peers a and b, on a store that others may write to."""

    def __init__(self, *, shares_store: bool = False, record: Record | None = None) -> None:
        settings = Settings("c", ("a", "b"), {"note": {}}, 3.0, 1.0, 0.5, 5.0, shares_store)
        self.state = InstallState(settings)
        self.now_s = 0.0
        self.asked: tuple[port.Effect, ...] = ()
        self.stored = record or Record()
        self.vector: dict[str, int] = {}
        self.connected = {"a", "b"}
        self.generation: int | None = 1
        self.meets(Opened(self.stored))

    def meets(self, event: Event) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, self.now_s)
        return self.asked

    def looks(self) -> tuple[port.Effect, ...]:
        """What it finds is as it is now."""
        state, connected = self.stored.encode(), frozenset(self.connected)
        return self.meets(port.Surveyed(state, dict(self.vector), connected, self.generation))

    def commits(self) -> tuple[port.Effect, ...]:
        """What it asked for becomes durable."""
        (commit,) = [effect for effect in self.asked if isinstance(effect, port.Commit)]
        if isinstance(commit.step, MoveRecord):
            assert commit.step.before == self.stored
            self.stored = commit.step.after
            self.vector |= commit.step.vector
        elif isinstance(commit.step, KeepPages | MergePage):
            assert commit.step.record == self.stored
            self.stored = self.stored.stepped()
        return self.meets(port.Committed(commit.step))

    def begins(self) -> None:
        """It comes too late, and takes the lease."""
        self.meets(TooLate("a", {"a": 3}))
        self.meets(port.Woken())
        assert port.Claim(LEASE) in self.looks()
        self.meets(port.Claimed(LEASE, 1))
        self.commits()
        self.meets(port.KeptScanned(""))
        self.looks()
        assert self.state.phase == "pulling"

    def pulls(self) -> None:
        """Two pages of peer a, which writes an entry between them."""
        self.looks()
        self.meets(port.PageReceived("a", page({"a": 3}, {"a": 3}, NEXT)))
        self.commits()
        self.looks()
        self.meets(port.PageReceived("a", page({"a": 3}, {"a": 4}, None, last=b"4")))
        self.commits()

    def installs(self) -> None:
        self.begins()
        self.pulls()
        self.meets(port.Woken())
        self.looks()
        self.commits()
        assert self.state.phase == "covering"

    def covers(self) -> None:
        self.installs()
        self.vector = {"a": 4}
        self.meets(port.Covered())
        self.meets(port.DigestsRead({("a", 4): b"4"}))
        assert self.state.phase == "merging"

    @property
    def step(self) -> object:
        """The one that is to become part of a transaction."""
        (commit,) = [effect for effect in self.asked if isinstance(effect, port.Commit)]
        return commit.step


def test_a_region_that_has_all_takes_nothing_over() -> None:
    it = Node()
    it.meets(TooLate("a", {"a": 3}))
    it.vector = {"a": 3}  # from b
    it.meets(port.Woken())
    assert port.ReopenLinks(("a",)) in it.looks()
    assert (it.state.phase, it.state.pending) == ("idle", False)


def test_pages_are_pulled_until_the_last_one() -> None:
    it = Node()
    it.begins()
    assert (it.state.pending, it.state.pulling) == (True, True)
    assert it.looks() == (port.AskPage("a", SnapshotPlace(), 5.0),)  # whose journal is cut holds least
    it.meets(port.PageReceived("a", page({"a": 3}, {"a": 3}, NEXT)))
    assert isinstance(it.step, KeepPages)
    assert it.commits() == (port.Survey(RECORD, LEASE),)
    assert it.looks() == (port.AskPage("a", NEXT, 5.0),)


def test_nobody_reads_beside_a_position_that_is_about_to_be_installed() -> None:
    it = Node(shares_store=True)
    it.begins()
    it.pulls()
    assert it.asked == (port.WakeAt(INSTALLED_AFTER * 3.0),)
    it.meets(port.Woken())
    it.looks()
    assert it.step == MoveRecord(PULLED, INSTALLING, {"a": 3})


def test_links_pull_again_once_the_position_is_installed() -> None:
    it = Node()
    it.installs()
    assert it.asked[:3] == (port.ReviewLinks(), port.ReopenLinks(("a", "b")), port.AwaitCovered({"a": 4}))
    assert (it.state.pending, it.state.pulling) == (True, False)


def test_pages_are_merged_when_their_entries_are_here_and_no_other_ones() -> None:
    it = Node()
    it.installs()
    assert it.meets(port.Covered())[0] == port.ReadDigests((("a", 4),))
    assert it.meets(port.DigestsRead({("a", 4): b"4"})) == (port.OpenKept(1),)
    it.meets(port.KeptOpened(1, (PIECE, PIECE)))
    assert it.step == MergePage(INSTALLING, {"a": 4}, PIECE)
    it.commits()
    assert isinstance(it.step, MergePage)
    assert it.commits() == (port.OpenKept(2),)
    merged = replace(INSTALLING, steps=4)
    done = merged.moved("done")
    assert it.meets(port.KeptOpened(2, ())) == (port.Commit(MoveRecord(merged, done), fence=Fence(LEASE, 1)),)
    assert it.state.pending
    it.commits()
    assert not it.state.pending
    assert it.step == KeepPages(done, (("00000001", b""), ("00000002", b"")))
    it.commits()
    assert (it.state.phase, it.state.completed) == ("idle", 1)


def test_an_entry_that_is_another_one_than_the_pages_show_begins_anew() -> None:
    it = Node()
    it.installs()
    it.meets(port.Covered())
    it.meets(port.DigestsRead({("a", 4): b"another"}))
    assert it.step == MoveRecord(INSTALLING, INSTALLING.next_round())


def test_a_later_incarnation_is_compared_by_its_own_entries() -> None:
    it = Node()
    it.begins()
    it.looks()
    it.meets(port.PageReceived("a", page({"a": 7, "a~5": 3}, {"a": 7, "a~5": 3}, NEXT)))
    it.commits()
    it.looks()
    it.meets(port.PageReceived("a", page({"a": 7, "a~5": 3}, {"a": 7, "a~5": 4}, None, last=b"4")))
    it.commits()
    it.meets(port.Woken())
    it.looks()
    it.commits()
    assert it.meets(port.Covered())[0] == port.ReadDigests((("a~5", 4),))
    it.meets(port.DigestsRead({("a~5", 4): b"another"}))
    assert it.step == MoveRecord(INSTALLING, INSTALLING.next_round())


def test_a_round_that_another_node_ended_during_the_scan_is_over() -> None:
    """Found by seed 502365: it read that the round was under way before a slow scan, and never looked again."""
    it = Node(record=INSTALLING)
    assert port.Claim(LEASE) in it.asked
    assert it.meets(port.Claimed(LEASE, 1)) == (port.ScanKept(""),)
    it.meets(port.KeptScanned("00000001", 1, "a", page({"a": 3}, {"a": 3}, None)))
    it.stored = DONE
    assert it.meets(port.KeptScanned("")) == (port.Survey(RECORD, LEASE),)
    it.looks()
    assert (it.state.phase, it.state.pending) == ("idle", False)


@pytest.mark.parametrize("reached", ["begins", "pulls", "installs", "covers"])
def test_a_node_that_was_paused_learns_that_the_round_is_over(reached: str) -> None:
    it = Node()
    if reached == "pulls":
        it.begins()
    getattr(it, reached)()
    it.stored = DONE
    asked = it.asked[0]
    it.meets(port.Failed(asked, RegionUnreachable("another node went on")))
    it.meets(port.Woken())
    it.looks()
    assert (it.state.phase in ("idle", "grace"), it.state.pending, it.state.pulling) == (True, False, False)


@pytest.mark.parametrize("reached", ["begins", "installs"])
def test_a_node_that_has_lost_its_lease_claims_it_anew(reached: str) -> None:
    it = Node()
    getattr(it, reached)()
    it.generation = None
    it.meets(port.Woken())
    assert port.Claim(LEASE) in it.looks()
    assert it.meets(port.Claimed(LEASE, None)) == (port.WakeAt(1.5),)
    assert it.state.phase == "looking on"


@pytest.mark.parametrize("reached", ["begins", "installs"])
def test_a_commit_of_a_lease_that_another_node_holds_leads_to_a_claim(reached: str) -> None:
    it = Node()
    getattr(it, reached)()
    commit = port.Commit(MoveRecord(it.stored, DONE), fence=Fence(LEASE, 1))
    assert port.Claim(LEASE) in it.meets(port.Failed(commit, FenceLost("another node holds it")))
    it.meets(port.Claimed(LEASE, None))
    assert (it.state.phase, it.state.failures) == ("looking on", 0)  # it is no fault of the peer


def test_the_record_in_the_store_alone_says_whether_the_region_holds_back() -> None:
    for record, pending in ((PULLING, True), (INSTALLING, True), (DONE, False)):
        it = Node()
        it.stored = record
        it.meets(port.Woken())
        it.looks()
        assert it.state.pending == pending


@pytest.mark.parametrize("reached", ["begins", "pulls", "installs", "covers"])
def test_a_database_that_has_lost_steps_is_asked_anew_how_far_it_is(reached: str) -> None:
    it = Node()
    if reached == "pulls":
        it.begins()
    getattr(it, reached)()
    assert port.Claim(LEASE) in it.meets(Replaced())
    it.stored = PULLING.stepped()
    it.meets(port.Claimed(LEASE, 1))
    for _ in range(2):  # it first sees that the database has lost something
        if it.asked == (port.ScanKept(""),):
            it.meets(port.KeptScanned("00000001", 1, "a", page({"a": 3}, {"a": 3}, NEXT)))
            it.meets(port.KeptScanned(""))
        it.looks()
        if port.Claim(LEASE) in it.asked:
            it.meets(port.Claimed(LEASE, 1))
    assert it.looks() == (port.AskPage("a", NEXT, 5.0),)


def test_a_database_that_was_replaced_is_looked_at_before_anything_is_served() -> None:
    it = Node(record=DONE)
    assert not it.state.pending
    assert it.meets(Replaced()) == (port.Survey(RECORD, LEASE),)
    assert it.state.pending
    assert "was replaced" in it.state.reason
    it.looks()
    assert not it.state.pending


def test_a_restart_goes_on_where_it_was() -> None:
    it = Node(record=PULLING)
    it.meets(port.Claimed(LEASE, 1))
    it.meets(port.KeptScanned("00000001", 1, "b", page({"b": 3}, {"b": 3}, NEXT)))
    it.meets(port.KeptScanned(""))
    it.looks()
    assert it.looks() == (port.AskPage("b", NEXT, 5.0),)


def test_pages_of_rounds_that_are_done_do_not_count() -> None:
    it = Node(record=DONE.next_round())
    it.meets(port.Claimed(LEASE, 1))
    it.meets(port.KeptScanned("00000007", 1, "b", page({"b": 3}, {"b": 3}, None)))
    it.meets(port.KeptScanned(""))
    assert (it.state.rounds, it.state.pages) == ({}, 7)


def test_a_peer_that_has_lost_its_disk_is_asked_anew() -> None:
    it = Node()
    it.begins()
    it.looks()
    it.meets(port.PageReceived("a", page({"a": 3}, {"a": 3}, NEXT)))
    it.commits()
    it.looks()
    it.meets(port.PageReceived("a", page({"a": 3}, {"a": 3}, None, incarnation=(2, 0))))
    assert it.step == MoveRecord(it.stored, it.stored.next_round())


def test_another_peer_is_asked_when_one_does_not_answer() -> None:
    it = Node()
    it.begins()
    for failures in range(5):
        (asked,) = it.looks()
        assert asked == port.AskPage("a", SnapshotPlace(), 5.0 * (1 + failures))
        it.meets(port.Failed(asked, RegionUnreachable("no")))
        it.meets(port.Woken())
    assert it.looks() == (port.AskPage("b", SnapshotPlace(), 5.0),)


def test_a_damaged_page_is_given_up_and_a_clock_that_is_ahead_is_waited_for() -> None:
    it = Node()
    it.begins()
    (asked,) = it.looks()
    it.meets(port.Failed(asked, ClockAhead("in a moment")))
    assert it.state.avoided == ""
    it.meets(port.Failed(asked, CorruptEntry("rubbish")))
    assert it.state.avoided == "a"


def test_what_is_not_declared_here_is_not_taken() -> None:
    it = Node()
    it.begins()
    it.looks()
    it.meets(port.PageReceived("a", page({}, {}, None, declared={"note": {"text": "text"}})))
    assert "a has note.text, which is not declared here" in it.state.trouble


def test_a_snapshot_takes_the_place_of_pages_that_were_left_only_if_it_has_what_was_installed() -> None:
    it = Node()
    it.installs()
    it.meets(port.Covered())
    it.meets(port.DigestsRead({("a", 4): b"another"}))
    it.commits()
    for key, after in (("00000001", NEXT), ("00000002", None)):
        it.meets(port.KeptScanned(key, 1, "a", page({"a": 3}, {"a": 4}, after)))
    it.meets(port.KeptScanned(""))
    it.looks()
    it.looks()
    it.meets(port.PageReceived("b", page({"a": 2}, {"a": 2}, None)))
    assert "b lacks some of what a had" in it.state.trouble


def test_entries_that_nobody_will_send_are_not_waited_for() -> None:
    it = Node()
    it.installs()
    it.meets(port.Woken())
    assert port.AskPositions(("a",)) in it.looks()
    it.vector = {"a": 3}
    assert it.meets(port.PositionsRead({"a": {"a": 4}})) == ()  # it is on its way
    assert it.meets(port.PositionsRead({"a": {"a": 2}})) == ()
    assert "nobody in reach" in it.state.trouble
    it.meets(port.PositionsRead({"a": {"a": 3}}))  # it has lost the last one
    assert it.step == MoveRecord(INSTALLING, INSTALLING.next_round())


def test_a_peer_that_is_out_of_reach_is_waited_for_a_while() -> None:
    it = Node()
    it.installs()
    it.connected = {"b"}
    for _ in range(4):
        it.meets(port.Woken())
        assert not any(isinstance(effect, port.AskPositions) for effect in it.looks())
    it.meets(port.Woken())
    assert port.AskPositions(("b",)) in it.looks()


def test_a_node_that_looks_on_says_so_when_its_link_comes_too_late() -> None:
    it = Node(record=INSTALLING)
    it.meets(port.Claimed(LEASE, None))
    it.meets(TooLate("b", {"b": 5}))
    for _ in range(2):  # another peer may bring it in between
        it.meets(port.Woken())
        it.looks()
        if port.Claim(LEASE) in it.asked:
            it.meets(port.Claimed(LEASE, None))
    assert it.step == MoveRecord(INSTALLING, INSTALLING.moved("late"))


def test_a_link_that_comes_too_late_once_more_begins_another_round() -> None:
    it = Node()
    it.installs()
    it.stored = INSTALLING.moved("late")
    it.meets(port.Woken())
    it.looks()
    assert it.step == MoveRecord(it.stored, it.stored.next_round())
