"""What every store adapter must do: subclass `StoreConformance` with a `harness` fixture, and pytest runs it all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

import pytest

from atoll.errors import InvalidOperation, StoreCorrupt, StoreError, StoreUnwritable, UnknownCollection
from atoll.store.port import (
    AuditFilter,
    AuditRow,
    Commit,
    Condition,
    Numbered,
    Parked,
    Remembered,
    Row,
    Segment,
    Store,
)


class Harness(Protocol):
    """How the suite handles one adapter."""

    def open(self) -> Store:
        """The region's store: empty at first, later with everything committed before."""

    def refuse_writes(self, store: Store) -> None:
        """Make the disk refuse; reads must go on."""

    def accept_writes(self, store: Store) -> None:
        """Make the disk take writes again."""


def put(*documents: tuple[str, Any], collection: str = "note") -> Commit:
    """A commit of whole documents, given as (key, JSON value); None for a tombstone."""
    rows = [
        (key, None if value is None else json.dumps(value, ensure_ascii=False).encode(), b"m:" + key.encode())
        for key, value in documents
    ]
    return Commit(documents={collection: rows})


def segments(*runs: tuple[str, int, int], size: int = 3) -> Commit:
    """A commit of journal segments, given as (origin, first, last)."""
    return Commit(
        segments=[Segment(origin, first, last, b"x" * size) for origin, first, last in runs],
        positions={origin: last for origin, _, last in runs},
    )


def audit(id: str, stamp_ms: int = 1, **changes: Any) -> AuditRow:
    row = AuditRow(
        id,
        "note",
        "k",
        "",
        "update_origin_differs",
        "standing",
        stamp_ms,
        "tokyo",
        "oregon",
        "lww",
        False,
        b"{}",
    )
    return row._replace(**changes)


def keys(found: Iterable[tuple[str, Row]]) -> list[str]:
    return [key for key, _ in found]


class StoreConformance:
    @pytest.fixture
    def store(self, harness: Harness) -> Iterable[Store]:
        store = harness.open()
        store.open_collections(["note", "cart"])
        yield store
        store.close()

    # Documents

    def test_absent_document_is_none(self, store: Store) -> None:
        assert store.get("note", "ghost") is None
        assert store.load("note", ["ghost"]) == {}

    def test_document_comes_back_byte_for_byte(self, store: Store) -> None:
        value, meta = '{"name":"Zoë 🏝","n":1.50}'.encode(), bytes(range(256))
        store.commit(Commit(documents={"note": [("ключ 🔑", value, meta)]}))
        assert store.get("note", "ключ 🔑") == Row(value, meta)
        assert store.load("note", ["ключ 🔑"]) == {"ключ 🔑": Row(value, meta)}

    def test_second_write_replaces_the_first(self, store: Store) -> None:
        store.commit(put(("a", {"n": 1})))
        store.commit(put(("a", {"n": 2})))
        assert store.get("note", "a") == Row(b'{"n": 2}', b"m:a")
        assert keys(store.scan_all("note")) == ["a"]

    def test_tombstone_is_read_but_not_scanned(self, store: Store) -> None:
        store.commit(put(("a", {}), ("b", {})))
        store.commit(put(("a", None)))
        assert store.get("note", "a") == Row(None, b"m:a")
        assert keys(store.scan("note")) == ["b"]
        assert keys(store.scan_all("note")) == ["a", "b"]

    def test_collections_are_separate(self, store: Store) -> None:
        store.commit(put(("a", {"n": 1})))
        assert store.get("cart", "a") is None

    def test_unopened_collection_is_refused(self, store: Store) -> None:
        with pytest.raises(UnknownCollection):
            store.get("ghost", "a")
        with pytest.raises(UnknownCollection):
            store.commit(Commit(documents={"ghost": [("a", b"{}", b"")]}, clock=9))
        assert store.clock() == 0

    def test_opening_collections_again_keeps_them(self, store: Store) -> None:
        store.commit(put(("a", {})))
        store.open_collections(["note", "cart", "new-one"])
        assert keys(store.scan("note")) == ["a"]
        assert store.scan("new-one") == []

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 64, 600, 1100])
    def test_load_finds_what_exists_among_any_number_of_keys(self, store: Store, count: int) -> None:
        names = [f"k{n:04}" for n in range(count)]
        store.commit(put(*((name, {"n": 1}) for name in names[::2])))
        assert sorted(store.load("note", [*names, *names[:3]])) == names[::2]

    # Scans

    def test_keys_are_ordered_by_code_point(self, store: Store) -> None:
        names = ["", "A", "Z", "a", "a/b", "aa", "z", "é", "中", "\ufb01", "\uffff", "😀", "\U0010ffff"]
        store.commit(put(*((name, {}) for name in reversed(names))))
        assert keys(store.scan("note")) == names == sorted(names)

    def test_pages_follow_each_other(self, store: Store) -> None:
        names = [f"k{n}" for n in range(7)]
        store.commit(put(*((name, {}) for name in names)))
        pages, after = [], None
        while page := keys(store.scan("note", after=after, limit=3)):
            pages.append(page)
            after = page[-1]
        assert pages == [names[:3], names[3:6], names[6:]]
        assert keys(store.scan_all("note", after="k4", limit=1)) == ["k5"]

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("a", ["a", "a/1", "a\U0010ffff", "a\U0010ffffz"]),
            ("a\U0010ffff", ["a\U0010ffff", "a\U0010ffffz"]),
            ("\ud7ff", ["\ud7ff", "\ud7ffx"]),
            ("\U0010ffff", ["\U0010ffff", "\U0010ffff\U0010ffff"]),
            ("nothing", []),
        ],
    )
    def test_prefix_finds_all_and_only_its_keys(self, store: Store, prefix: str, expected: list[str]) -> None:
        names = ["", "a", "a/1", "a\U0010ffff", "a\U0010ffffz", "b", "\ud7ff", "\ud7ffx", "\ue000"]
        store.commit(put(*((name, {}) for name in [*names, "\U0010ffff", "\U0010ffff\U0010ffff"])))
        assert keys(store.scan("note", prefix=prefix)) == expected

    @pytest.mark.parametrize(("after", "expected"), [("", ["b1", "b2"]), ("b1", ["b2"]), ("c", [])])
    def test_prefix_and_cursor_narrow_together(self, store: Store, after: str, expected: list[str]) -> None:
        store.commit(put(("a", {}), ("b1", {}), ("b2", {}), ("d", {})))
        assert keys(store.scan("note", prefix="b", after=after)) == expected

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            (Condition("n", "eq", 1), ["int", "real"]),
            (Condition("n", "eq", True), ["true"]),
            (Condition("n", "eq", False), []),
            (Condition("n", "eq", "1"), ["text"]),
            (Condition("n", "eq", None), ["absent", "null"]),
            (Condition("n", "ne", 1), ["absent", "list", "map", "null", "text", "true", "two"]),
            (Condition("n", "ne", None), ["int", "list", "map", "real", "text", "true", "two"]),
            (Condition("n", "lt", 2), ["int", "real"]),
            (Condition("n", "le", 2.5), ["int", "real", "two"]),
            (Condition("n", "gt", 1), ["two"]),
            (Condition("n", "ge", "1"), ["text"]),
            (Condition("n", "eq", '[1, "a", null, true]'), []),
            (Condition("n", "contains", 1), ["list"]),
            (Condition("n", "contains", "a"), ["list"]),
            (Condition("n", "contains", None), ["list"]),
            (Condition("n", "contains", True), ["list"]),
            (Condition("n", "contains", False), []),
            (Condition("n", "contains", "1"), ["text"]),
        ],
    )
    def test_condition_compares_within_one_type(
        self, store: Store, condition: Condition, expected: list[str]
    ) -> None:
        held = {"int": 1, "real": 1.0, "two": 2, "text": "1", "true": True, "null": None}
        held |= {"list": [1, "a", None, True], "map": {"a": 1}}
        store.commit(put(("absent", {}), *((key, {"n": value}) for key, value in held.items())))
        assert keys(store.scan("note", where=[condition])) == expected

    def test_conditions_narrow_together_before_the_limit(self, store: Store) -> None:
        store.commit(put(*((f"k{n}", {"n": n, "even": n % 2 == 0}) for n in range(9))))
        where = [Condition("even", "eq", True), Condition("n", "gt", 2)]
        assert keys(store.scan("note", where=where, limit=2)) == ["k4", "k6"]

    def test_text_contains_a_part_with_any_characters(self, store: Store) -> None:
        store.commit(put(("a", {"título": "50% off_ 'now' 🏝"}), ("b", {"título": "none"})))
        for part in ("% off_", "'now'", "🏝"):
            assert keys(store.scan("note", where=[Condition("título", "contains", part)])) == ["a"]

    @pytest.mark.parametrize(
        "condition",
        [
            Condition("n", "lt", None),
            Condition("n", "ge", True),
            Condition('a"b', "eq", 1),
            Condition("", "eq", 1),
        ],
    )
    def test_senseless_condition_is_refused(self, store: Store, condition: Condition) -> None:
        with pytest.raises(InvalidOperation):
            store.scan("note", where=[condition])

    # Journal, positions, clock

    def test_new_store_has_seen_nothing(self, store: Store) -> None:
        assert (store.positions(), store.clock(), store.journal_tail()) == ({}, 0, 0)
        assert store.journal(0) == []
        assert store.journal_start({}, ["tokyo"]) == 0

    def test_journal_comes_back_in_commit_order(self, store: Store) -> None:
        store.commit(segments(("tokyo", 1, 4), ("oregon", 1, 1)))
        store.commit(segments(("tokyo", 5, 5)))
        expected = [("tokyo", 1, 4), ("oregon", 1, 1), ("tokyo", 5, 5)]
        assert [numbered.segment[:3] for numbered in store.journal(0)] == expected
        first = store.journal(0)[0]
        assert first == Numbered(first.id, Segment("tokyo", 1, 4, b"xxx"))
        assert [numbered.segment[:3] for numbered in store.journal(first.id)] == expected[1:]
        assert store.journal(0)[-1].id == store.journal_tail()
        assert store.positions() == {"oregon": 1, "tokyo": 5}

    def test_journal_is_bounded_in_rows_and_bytes(self, store: Store) -> None:
        store.commit(segments(*(("tokyo", n, n) for n in range(1, 10)), size=100))
        assert len(store.journal(0, limit=4)) == 4
        assert len(store.journal(0, limit_bytes=350)) == 3
        assert len(store.journal(0, limit_bytes=1)) == 1

    def test_journal_starts_before_the_first_unseen_entry(self, store: Store) -> None:
        store.commit(segments(("tokyo", 1, 3), ("oregon", 1, 2), ("tokyo", 4, 6), ("oregon", 3, 3)))

        def unseen(vector: dict[str, int], *origins: str) -> list[tuple[Any, ...]]:
            return [numbered.segment[:3] for numbered in store.journal(store.journal_start(vector, origins))]

        assert unseen({"tokyo": 3, "oregon": 3}, "tokyo", "oregon") == [("tokyo", 4, 6), ("oregon", 3, 3)]
        assert unseen({"tokyo": 5, "oregon": 2}, "oregon") == [("oregon", 3, 3)]
        assert unseen({"tokyo": 2}, "tokyo")[0] == ("tokyo", 1, 3)
        assert unseen({"tokyo": 6, "oregon": 3}, "tokyo", "oregon", "unheard") == []

    def test_segment_is_found_by_any_of_its_entries(self, store: Store) -> None:
        store.commit(segments(("tokyo", 1, 3), ("tokyo", 7, 9)))
        found = [store.segment("tokyo", seq) for seq in range(11)]
        spans = [segment and (segment.first_seq, segment.last_seq) for segment in found]
        assert spans == [None, *[(1, 3)] * 3, *[None] * 3, *[(7, 9)] * 3, None]
        assert store.segment("oregon", 1) is None

    def test_segment_written_twice_is_refused_whole(self, store: Store) -> None:
        store.commit(segments(("tokyo", 1, 3)))
        again = put(("a", {}))
        again.segments.append(Segment("tokyo", 2, 3, b"other"))
        with pytest.raises(StoreCorrupt):
            store.commit(again)
        assert store.get("note", "a") is None
        assert store.segment("tokyo", 2) == Segment("tokyo", 1, 3, b"xxx")

    def test_clock_never_goes_back(self, store: Store) -> None:
        stamp = 1_900_000_000_000 << 16
        for clock in (stamp, 5, None):
            store.commit(Commit(clock=clock))
            assert store.clock() == stamp

    def test_counter_only_rises(self, store: Store) -> None:
        assert store.counter("epoch") == 0
        seen = []
        for value in (3, 2, 7):
            store.raise_counter("epoch", value)
            seen.append(store.counter("epoch"))
        assert seen == [3, 3, 7]
        assert store.counter("other") == 0

    # Audit, idempotency keys, parked changes

    def test_conflict_record_is_replaced_by_id(self, store: Store) -> None:
        settled = audit("c1", 5, status="settled", uncertain=True, body='{"losing":"ö"}'.encode())
        store.commit(Commit(audit=[audit("c1", 5)]))
        store.commit(Commit(audit=[settled]))
        assert store.conflicts(AuditFilter()) == [settled]
        assert store.conflict("c1") == settled
        assert store.conflict("c2") is None

    def test_conflict_removed_and_written_in_one_commit_stays(self, store: Store) -> None:
        store.commit(Commit(audit=[audit("c1"), audit("c2")]))
        store.commit(Commit(audit_removed=["c1", "c2", "never"], audit=[audit("c2")]))
        assert [row.id for row in store.conflicts(AuditFilter())] == ["c2"]

    def test_conflicts_page_from_the_newest(self, store: Store) -> None:
        store.commit(Commit(audit=[audit("a", 1), audit("b", 2), audit("c", 2), audit("d", 3)]))
        pages, after = [], None
        while page := store.conflicts(AuditFilter(), after=after, limit=3):
            pages.append([row.id for row in page])
            after = (page[-1].stamp_ms, page[-1].id)
        assert pages == [["d", "c", "b"], ["a"]]

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (AuditFilter(collection="cart"), ["b"]),
            (AuditFilter(key="x"), ["c"]),
            (AuditFilter(kind="delete_exists"), ["d"]),
            (AuditFilter(status="manual"), ["d"]),
            (AuditFilter(origin="tokyo"), ["d", "b", "a"]),
            (AuditFilter(origin="oregon"), ["c", "b", "a"]),
            (AuditFilter(since_ms=2, until_ms=3), ["c", "b"]),
            (AuditFilter(collection="note", origin="oregon", until_ms=2), ["a"]),
        ],
    )
    def test_conflicts_are_filtered(self, store: Store, wanted: AuditFilter, expected: list[str]) -> None:
        rows = [audit("a", 1), audit("b", 2, collection="cart"), audit("c", 3, key="x", loser_origin="paris")]
        rows.append(audit("d", 4, kind="delete_exists", status="manual", winner_origin="paris"))
        store.commit(Commit(audit=rows))
        assert [row.id for row in store.conflicts(wanted)] == expected

    def test_answers_are_remembered(self, store: Store) -> None:
        store.commit(Commit(remembered=[Remembered("k1", 1, b"one"), Remembered("k2", 1, b"two")]))
        store.commit(Commit(remembered=[Remembered("k2", 2, b"again")]))
        assert store.remembered(["k1", "k2", "k3"]) == {"k1": b"one", "k2": b"again"}
        assert store.remembered([]) == {}

    def test_parked_changes_are_listed_by_dot(self, store: Store) -> None:
        changes = [Parked("tokyo", 2, 1, "unknown kind", b"b"), Parked("tokyo", 2, 0, "unknown kind", b"a")]
        changes.append(Parked("oregon", 9, 0, "too deep", b"c"))
        store.commit(Commit(parked=changes))
        store.commit(Commit(parked=changes[:1]))
        assert store.parked() == sorted(changes)
        assert store.parked(limit=1) == [changes[2]]

    def test_retention_goes_by_age(self, store: Store) -> None:
        old, new = audit("old", 10), audit("new", 20)
        answers = [Remembered("old", 10, b""), Remembered("new", 20, b"")]
        store.commit(Commit(audit=[old, new, audit("manual", 1, status="manual")], remembered=answers))
        assert store.forget(remembered_before_ms=20, audit_before_ms=20, audit_keep=100) == 2
        assert [row.id for row in store.conflicts(AuditFilter())] == ["new", "manual"]
        assert list(store.remembered(["old", "new"])) == ["new"]

    def test_retention_keeps_the_newest_and_every_manual_record(self, store: Store) -> None:
        rows = [audit(f"c{n}", n, status="manual" if n == 0 else "standing") for n in range(6)]
        store.commit(Commit(audit=rows))
        assert store.forget(remembered_before_ms=0, audit_before_ms=0, audit_keep=3) == 3
        assert [row.id for row in store.conflicts(AuditFilter())] == ["c5", "c4", "c0"]
        assert store.forget(remembered_before_ms=0, audit_before_ms=0, audit_keep=0) == 2
        assert [row.id for row in store.conflicts(AuditFilter())] == ["c0"]

    # The whole

    def test_everything_committed_is_there_after_reopening(self, harness: Harness, store: Store) -> None:
        everything = put(("a", {"n": 1}), ("b", None))
        everything.segments, everything.positions, everything.clock = (
            [Segment("tokyo", 1, 2, b"s")],
            {"tokyo": 2},
            7,
        )
        everything.audit, everything.remembered = [audit("c")], [Remembered("k", 1, b"r")]
        everything.parked = [Parked("tokyo", 2, 0, "why", b"p")]
        store.commit(everything)
        store.close()
        again = harness.open()
        again.open_collections(["note"])
        assert keys(again.scan_all("note")) == ["a", "b"]
        assert (again.positions(), again.clock(), again.journal_tail()) == ({"tokyo": 2}, 7, 1)
        assert again.conflict("c") == audit("c")
        assert (again.remembered(["k"]), again.parked()) == ({"k": b"r"}, everything.parked)

    def test_refused_commit_changes_nothing_and_a_later_one_works(
        self, harness: Harness, store: Store
    ) -> None:
        store.commit(put(("a", {"n": 1})))
        harness.refuse_writes(store)
        change = put(("a", {"n": 2}), ("b", {"blob": "x" * 200_000}))
        change.segments, change.positions, change.audit = (
            [Segment("tokyo", 1, 1, b"s")],
            {"tokyo": 1},
            [audit("c")],
        )
        with pytest.raises(StoreUnwritable):
            store.commit(change)
        assert keys(store.scan("note")) == ["a"]
        assert store.get("note", "a") == Row(b'{"n": 1}', b"m:a") == store.load("note", ["a"])["a"]
        assert (store.positions(), store.journal(0), store.conflict("c")) == ({}, [], None)
        harness.accept_writes(store)
        store.commit(change)
        assert (keys(store.scan("note")), store.positions()) == (["a", "b"], {"tokyo": 1})

    def test_statistics_count_what_is_there(self, store: Store) -> None:
        store.commit(put(("a", {}), ("b", {}), ("c", None)))
        store.commit(Commit(audit=[audit("x")], parked=[Parked("tokyo", 1, 0, "why", b"")]))
        found = store.statistics()
        assert (found.documents["note"], found.tombstones["note"]) == (2, 1)
        assert (found.documents["cart"], found.conflicts, found.parked) == (0, 1, 1)
        assert found.size_bytes > 0

    def test_checkpoint_loses_nothing(self, store: Store) -> None:
        store.commit(put(("a", {})))
        store.checkpoint()
        store.commit(put(("b", {})))
        store.checkpoint()
        assert keys(store.scan("note")) == ["a", "b"]

    def test_closed_store_refuses_and_closes_again(self, store: Store) -> None:
        store.close()
        store.close()
        store.checkpoint()
        with pytest.raises(StoreError):
            store.get("note", "a")
        with pytest.raises(StoreError):
            store.commit(put(("a", {})))
