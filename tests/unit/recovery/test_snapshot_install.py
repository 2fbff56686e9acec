"""The decisions of snapshot install, one event at a time; with real regions: `tests/unit/region`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import pytest

from atoll.causality.origin import Origin
from atoll.causality.types import Dot, Seq
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
ENTRIES = SnapshotPlace("entries", since={"a": 3}, until={"a": 4})
PULLING = Record().next_round()
PULLED = replace(PULLING, steps=3, shows={"a": 4})
INSTALLING = PULLED.moved("installing")
DONE = INSTALLING.moved("done")
PIECE = SnapshotPage()
LAST = Dot(Origin("a"), Seq(4))


def replace_since(place: SnapshotPlace, since: dict[str, int]) -> SnapshotPlace:
    return msgspec.structs.replace(place, since=since)


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
            before = commit.step.before if isinstance(commit.step, KeepPages) else commit.step.record
            assert before == self.stored
            self.stored = commit.step.after if isinstance(commit.step, KeepPages) else before.stepped()
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

    def receives(self, found: SnapshotReply, digests: Mapping[Dot, bytes] = {}) -> tuple[port.Effect, ...]:
        """The page that it asks for."""
        (asked,) = self.looks()
        assert isinstance(asked, port.AskPage)
        return self.meets(port.PageReceived(asked.peer, asked.place, found, digests))

    def keeps(self, found: SnapshotReply, digests: Mapping[Dot, bytes] = {}) -> None:
        self.receives(found, digests)
        self.commits()

    def pulls(self) -> None:
        """Two pages of peer a, which writes an entry between them, and that entry."""
        self.keeps(page({"a": 3}, {"a": 3}, NEXT))
        self.keeps(page({"a": 3}, {"a": 4}, None, last=b"4"))
        self.keeps(page({"a": 4}, {"a": 4}, replace_since(ENTRIES, {"a": 4})), {LAST: b"4"})

    def installs(self) -> None:
        self.begins()
        self.pulls()
        self.meets(port.Woken())
        self.looks()
        self.commits()
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
    it.receives(page({"a": 3}, {"a": 3}, NEXT))
    assert isinstance(it.step, KeepPages)
    assert it.commits() == (port.Survey(RECORD, LEASE),)
    assert it.looks() == (port.AskPage("a", NEXT, 5.0),)
    it.keeps(page({"a": 3}, {"a": 4}, None))
    assert it.stored.shows == {"a": 4}
    assert it.looks() == (port.AskPage("a", ENTRIES, 5.0),)
    it.keeps(page({"a": 4}, {"a": 4}, replace_since(ENTRIES, {"a": 4})))
    assert it.state.phase == "settling"


def test_a_snapshot_beside_which_nothing_happened_ends_with_its_last_page() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 3}, {"a": 3}, None))
    assert it.state.phase == "settling"


def test_nobody_reads_beside_a_position_that_is_about_to_be_installed() -> None:
    it = Node(shares_store=True)
    it.begins()
    it.pulls()
    assert it.asked == (port.WakeAt(INSTALLED_AFTER * 3.0),)
    it.meets(port.Woken())
    it.looks()
    assert it.step == MoveRecord(PULLED, INSTALLING, {"a": 4})


def test_links_pull_again_once_the_position_is_installed() -> None:
    it = Node()
    it.installs()
    assert it.asked[:3] == (port.ReviewLinks(), port.ReopenLinks(("a", "b")), port.OpenKept(3))
    assert (it.state.pending, it.state.pulling) == (True, False)


def test_pages_are_merged_after_their_entries() -> None:
    it = Node()
    it.installs()
    it.meets(port.KeptOpened(3, (PIECE, PIECE)))
    assert it.step == MergePage(INSTALLING, {"a": 4}, PIECE)
    it.commits()
    assert isinstance(it.step, MergePage)
    assert it.commits() == (port.OpenKept(1),)
    assert it.meets(port.KeptOpened(1, ())) == (port.OpenKept(2),)
    merged = replace(INSTALLING, steps=5)
    done = merged.moved("done")
    assert it.meets(port.KeptOpened(2, ())) == (port.Commit(MoveRecord(merged, done), fence=Fence(LEASE, 1)),)
    assert it.state.pending
    it.commits()
    assert not it.state.pending
    rows = tuple((f"0000000{number}", b"") for number in (1, 2, 3))
    assert it.step == KeepPages(done, done.stepped(), rows)
    it.commits()
    assert (it.state.phase, it.state.completed) == ("idle", 1)


def test_a_merge_that_failed_begins_with_its_page_again() -> None:
    it = Node()
    it.installs()
    it.meets(port.KeptOpened(3, (PIECE, PIECE)))
    it.commits()
    it.meets(port.Failed(it.asked[0], RegionUnreachable("the database went away")))
    it.meets(port.Woken())
    assert it.looks() == (port.OpenKept(3),)


def test_an_entry_that_is_another_one_than_the_pages_show_begins_anew() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 3}, {"a": 3}, NEXT))
    it.keeps(page({"a": 3}, {"a": 4}, None, last=b"4"))
    it.receives(page({"a": 4}, {"a": 4}, replace_since(ENTRIES, {"a": 4})), {LAST: b"another"})
    assert it.step == MoveRecord(it.stored, it.stored.next_round())


def test_a_later_incarnation_is_compared_by_its_own_entries() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 7, "a~5": 3}, {"a": 7, "a~5": 3}, NEXT))
    it.keeps(page({"a": 7, "a~5": 3}, {"a": 7, "a~5": 4}, None, last=b"4"))
    it.receives(page({}, {}, SnapshotPlace("entries")), {Dot(Origin("a"), Seq(4)): b"another"})
    assert it.step == MoveRecord(it.stored, it.stored.next_round())  # for it lacks what it had
    it = Node()
    it.begins()
    it.keeps(page({"a": 7, "a~5": 3}, {"a": 7, "a~5": 4}, None, last=b"4"))
    vector = {"a": 7, "a~5": 4}
    it.receives(page(vector, vector, SnapshotPlace("entries")), {Dot(Origin("a~5"), Seq(4)): b"another"})
    assert it.step == MoveRecord(it.stored, it.stored.next_round())


def test_a_journal_that_no_longer_holds_the_entries_begins_the_round_anew_with_another_peer() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 3}, {"a": 4}, None))
    it.receives(page({"a": 4}, {"a": 4}, None))
    assert it.step == MoveRecord(it.stored, it.stored.next_round())
    it.commits()
    it.meets(port.KeptScanned("00000001", 1, "a", page({"a": 3}, {"a": 4}, None)))
    it.meets(port.KeptScanned(""))
    it.looks()
    assert it.looks() == (port.AskPage("b", SnapshotPlace(), 5.0),)


def test_a_page_that_was_asked_for_before_is_not_taken_for_another_one() -> None:
    it = Node()
    it.begins()
    it.looks()
    it.meets(Replaced())
    it.meets(port.Claimed(LEASE, 1))
    it.meets(port.KeptScanned("00000001", 1, "a", page({"a": 3}, {"a": 3}, NEXT)))
    it.meets(port.KeptScanned(""))
    it.looks()
    assert it.state.phase == "pulling"
    assert it.meets(port.PageReceived("a", SnapshotPlace(), page({"a": 3}, {"a": 3}, NEXT))) == ()
    assert it.looks() == (port.AskPage("a", NEXT, 5.0),)


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


@pytest.mark.parametrize("reached", ["begins", "pulls", "installs"])
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


@pytest.mark.parametrize("reached", ["begins", "pulls", "installs"])
def test_a_database_that_has_lost_steps_is_asked_anew_how_far_it_is(reached: str) -> None:
    it = Node()
    if reached == "pulls":
        it.begins()
    getattr(it, reached)()
    assert port.Claim(LEASE) in it.meets(Replaced())
    it.stored = PULLING.stepped({"a": 3})
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
    assert (it.state.round, it.state.pages) == (None, 7)


def test_a_peer_that_has_lost_its_disk_is_asked_anew() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 3}, {"a": 3}, NEXT))
    it.receives(page({"a": 3}, {"a": 3}, None, incarnation=(2, 0)))
    assert it.step == MoveRecord(it.stored, it.stored.next_round())


def test_a_peer_that_lacks_what_its_pages_show_is_asked_anew() -> None:
    it = Node()
    it.begins()
    it.keeps(page({"a": 3}, {"a": 4}, NEXT))
    it.receives(page({"a": 3}, {"a": 5}, None))
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
    it.receives(page({}, {}, None, declared={"note": {"text": "text"}}))
    assert "a has note.text, which is not declared here" in it.state.trouble
