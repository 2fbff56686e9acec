"""Versions that no majority has decided become part of a register's order."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.conflicts.records import check_resolved
from atoll.consensus.decided import (
    REMEMBERED_MS,
    Decided,
    Intent,
    change_of,
    changed,
    decoded,
    encoded,
    initial,
    version_in,
)
from atoll.consensus.folding import folded, undecided
from atoll.documents import register as registers
from atoll.documents.decided import DECIDED
from atoll.documents.document import Document, encode_row
from atoll.documents.entry import Entry
from atoll.documents.mutation import Delete, put_of
from atoll.documents.register import Version
from atoll.documents.rules import WHOLE, Rules
from atoll.errors import HostileEntry
from atoll.schema import Collection
from atoll.schema.application import application_of
from atoll.store.port import Row


class Seat(Collection, consistency="strong", fallback="eventual"):
    guest: str = ""


RULES = Rules(application_of(Seat).collections["seat"])
ADDRESS = ("seat", "k")
SECOND = 1000 << 16


def value(guest: str) -> bytes:
    return json.dumps({"guest": guest}, separators=(",", ":")).encode()


def written(guest: str | None, origin: str, seq: int, stamp: int, seen: int) -> Version:
    """While cut off, by someone who had seen none, the first or the second revision."""
    revisions = (0, FIRST.revision, SECOND_ONE.revision)
    context = {origin: seq - 1, DECIDED: revisions[seen]}
    return Version(origin, seq, stamp, 0, 1, context, None if guest is None else value(guest))  # type: ignore[arg-type]


def stored(*versions: Version) -> Row:
    merged: Sequence[Version] = ()
    for version in versions:
        merged = registers.merge(tuple(merged), (version,))
    return encode_row(RULES, Document({WHOLE: tuple(merged)}, {}))


def decide(before: Decided, guest: str, stamp: int, row: Row | None = None) -> Decided:
    return changed(RULES, before, put_of(RULES, "k", value(guest)), stamp, row)  # type: ignore[arg-type]


def fold(before: Decided, row: Row | None, stamp: int = 100 * SECOND) -> Decided:
    return folded(RULES, "k", before, row, lambda: stamp)  # type: ignore[arg-type,return-value]


FIRST = decide(Decided(), "first", SECOND)
SECOND_ONE = decide(FIRST, "second", 5 * SECOND)


def test_a_write_that_had_seen_the_latest_revision_becomes_the_next() -> None:
    after = fold(FIRST, stored(version_in(FIRST), written("cut off", "a", 3, 2 * SECOND, 1)))
    assert (after.revision, after.value, after.lost) == (FIRST.revision + 1, value("cut off"), ())
    assert after.base["a"] == 3


@pytest.mark.parametrize(("at", "shown", "lost"), [(9, "cut off", "second"), (2, "second", "cut off")])
def test_of_two_concurrent_writes_the_later_one_stays_and_the_other_is_in_the_audit(
    at: int, shown: str, lost: str
) -> None:
    after = fold(SECOND_ONE, stored(written("cut off", "a", 3, at * SECOND, 1)))
    assert (after.revision, after.value) == (SECOND_ONE.revision + 1, value(shown))
    (record,) = (json.loads(each.record.body) for each in after.lost)
    assert (record["losing"]["value"], record["status"]) == ({"guest": lost}, "resolved")
    assert record["resolved_by"] == [after.stamp, DECIDED, after.revision]


def test_it_is_folded_once() -> None:
    row = stored(written("cut off", "a", 3, 9 * SECOND, 1))
    once = fold(SECOND_ONE, row)
    assert fold(once, row) is once
    assert fold(decide(once, "third", 101 * SECOND), row).value == value("third")


def test_a_change_alone_never_covers_it() -> None:
    """Else it would be lost, and no audit would say so."""
    row = stored(written("cut off", "a", 3, 9 * SECOND, 1))
    assert decide(FIRST, "second", 5 * SECOND, row).base == FIRST.base
    assert initial(RULES, row) == Decided()


def test_a_transaction_that_holds_the_register_comes_first() -> None:
    held = decoded(encoded(FIRST))
    held = Decided(
        held.revision, held.stamp, held.operation, held.value, held.base, intent=Intent("t", "a", 1)
    )
    assert fold(held, stored(written("cut off", "a", 3, 2 * SECOND, 1))) is held


def test_there_is_nothing_to_fold_in_what_was_decided() -> None:
    assert fold(FIRST, None) is FIRST
    assert fold(FIRST, stored(version_in(FIRST))) is FIRST
    assert not undecided(RULES, stored(version_in(FIRST)))
    assert not undecided(RULES, None)
    assert undecided(RULES, stored(written("cut off", "a", 3, 2 * SECOND, 1)))


def test_the_audit_record_travels_with_later_revisions_for_a_while() -> None:
    """Whoever journals the revision that dropped it may be gone before anyone has heard."""
    after = fold(SECOND_ONE, stored(written("cut off", "a", 3, 9 * SECOND, 1)))
    later = decide(after, "later", after.stamp + SECOND)
    assert later.lost == after.lost
    for each in (after, later):
        change = change_of(ADDRESS, each)
        (losing,) = change.resolved
        entry = Entry("b", 1, each.stamp, 0, {}, (change,), None)  # type: ignore[arg-type]
        check_resolved(losing, entry, change)
    much_later = decide(later, "much later", 100 * SECOND + ((REMEMBERED_MS + 1) << 16))
    assert much_later.lost == ()


def test_a_record_that_no_revision_could_carry_is_refused() -> None:
    after = fold(SECOND_ONE, stored(written("cut off", "a", 3, 9 * SECOND, 1)))
    (losing,) = change_of(ADDRESS, after).resolved
    earlier = change_of(ADDRESS, SECOND_ONE)
    with pytest.raises(HostileEntry):
        check_resolved(losing, Entry("b", 1, after.stamp, 0, {}, (earlier,), None), earlier)  # type: ignore[arg-type]


stamps = st.integers(1, 20).map(lambda second: second * SECOND)
seen = st.integers(0, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), stamps, seen), max_size=4, unique_by=lambda each: each[0]))
def test_nothing_is_lost_without_a_record(writes: list[tuple[str, int, int]]) -> None:
    """Whatever was written while cut off is shown afterwards, was overwritten by who had seen it, or is recorded."""
    versions = [written(f"by {origin}", origin, 1, stamp, seen) for origin, stamp, seen in writes]
    after = fold(SECOND_ONE, stored(version_in(SECOND_ONE), *versions))
    recorded = [json.loads(each.record.body)["losing"]["value"]["guest"] for each in after.lost]
    shown = json.loads(after.value or b"{}")["guest"]
    for version in versions:
        assert after.base.get(version.origin, 0) >= version.seq
        assert json.loads(version.value or b"{}")["guest"] in (shown, *recorded)
    if not any(seen == 2 for *_, seen in writes):
        assert "second" in (shown, *recorded)
    assert len(set(recorded)) == len(recorded)


def test_a_revision_is_above_those_of_a_register_that_was_dropped() -> None:
    """Acceptors forget deleted documents. Regions know their revisions, and keep the latest."""
    row = stored(written("cut off", "a", 3, 9 * SECOND, 2))
    assert fold(Decided(), row, 2 * SECOND).revision > SECOND_ONE.revision
    assert fold(Decided(), row, 500 * SECOND).revision == 500_000
    tombstone = Row(
        None, stored(version_in(changed(RULES, FIRST, Delete("seat", "k"), 7 * SECOND, None))).meta
    )  # type: ignore[arg-type]
    assert initial(RULES, tombstone).revision == FIRST.revision + 1
