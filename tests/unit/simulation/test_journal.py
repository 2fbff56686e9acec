"""What the oracle of the simulator takes for a violation in commits."""

from __future__ import annotations

import pytest

from atoll.commit.snapshot_page import RECORD
from atoll.documents.entry import EncodedEntry
from atoll.documents.mutation import put_of
from atoll.recovery.snapshot_record import Record
from atoll.simulation.failures import SafetyViolation, Verdict
from atoll.simulation.journal import Journal
from atoll.store.port import Commit, Segment

from ..commit.replica import Replica, rules_of
from ..commit.shop import SHOP

RULES = rules_of(SHOP)


def entries(count: int) -> list[EncodedEntry]:
    replica = Replica("a", RULES)
    for number in range(count):
        replica.write(put_of(RULES["note"], f"k{number}", b'{"body":"x"}'))
    return replica.journal


def segment(encoded: EncodedEntry) -> Segment:
    entry = encoded.entry
    return Segment(entry.origin, entry.seq, entry.seq, encoded.frame)


def test_an_entry_may_come_with_the_snapshot_that_holds_later_ones() -> None:
    """Found by seed 920000299 with fourteen clients: one commit held both."""
    verdict, written = Verdict(), entries(3)
    journal = Journal(verdict)
    journal.observe("a", Commit(segments=[segment(each) for each in written], positions={"a": 3}))
    states: dict[tuple[str, str], bytes | None] = {RECORD: Record().encode()}
    journal.observe("b", Commit(segments=[segment(written[0])], positions={"a": 3}, states=states))
    verdict.check()
    assert journal.vectors["b"] == {"a": 3}


def test_a_position_without_its_entries_is_a_violation() -> None:
    verdict, written = Verdict(), entries(3)
    journal = Journal(verdict)
    journal.observe("a", Commit(segments=[segment(each) for each in written], positions={"a": 3}))
    journal.observe("b", Commit(segments=[segment(written[0])], positions={"a": 3}))
    with pytest.raises(SafetyViolation, match="b stored position 3 of a and holds 1 of it"):
        verdict.check()
