"""What every store adapter must do: subclass `StoreConformance` with fixtures `harness` and `other` (another, empty
one), and pytest runs it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

import pytest
from tests.unit.store.typed_values import HELD, NONE

from atoll.errors import (
    FenceLost,
    Indefinite,
    InvalidKey,
    InvalidOperation,
    StoreCorrupt,
    StoreError,
    StoreUnwritable,
    TooLarge,
    UnknownCollection,
)
from atoll.schema.limits import Limits, validate_key
from atoll.store.pages import cut_short
from atoll.store.port import (
    AuditFilter,
    AuditRow,
    Chunk,
    Commit,
    Condition,
    Kind,
    Numbered,
    Operator,
    Parked,
    Remembered,
    Row,
    Segment,
    Shape,
    Store,
    Wanted,
)
from atoll.store.typed import compare

_ORDERS: Mapping[Operator, Callable[[int | None], bool]] = {
    "eq": lambda found: found == 0,
    "ne": lambda found: found != 0,
    "lt": lambda found: found is not None and found < 0,
    "le": lambda found: found is not None and found <= 0,
    "gt": lambda found: found is not None and found > 0,
    "ge": lambda found: found is not None and found >= 0,
}


class Harness(Protocol):
    """How the suite handles one adapter."""

    def open(self) -> Store:
        """The region's store: empty at first, later with everything committed before."""

    async def refuse_writes(self, store: Store) -> None:
        """Make the disk refuse; reads must go on."""

    async def accept_writes(self, store: Store) -> None:
        """Make the disk take writes again."""


async def commit(store: Store, commit: Commit) -> None:
    """In a transaction of its own."""
    async with store.begin(Wanted()) as transaction:
        await transaction.commit(commit)


async def load(
    store: Store, collection: str, keys: Sequence[str], most_bytes: int | None = None
) -> dict[str, Row]:
    """What a transaction brings along."""
    async with store.begin(Wanted({collection: keys}, most_bytes=most_bytes)) as transaction:
        return {key: row for (_, key), row in transaction.rows.items()}


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
        "open",
        stamp_ms,
        "tokyo",
        "oregon",
        "lww",
        False,
        b"{}",
    )
    return row._replace(**changes)


async def given(chunks: Iterable[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


def keys(found: Iterable[tuple[str, Row]]) -> list[str]:
    return [key for key, _ in found]


_ODD = [
    "\x00",
    "\ufdd0",
    "\ufdd1",
    "\ufffe",
    "\U0010ffff",
    "\ue000",
    "\u2028",
    "é",
    "0",
    "1",
    "\\",
    '"',
    "'",
    "%",
    "🏝",
]


def odd_texts(count: int) -> list[str]:
    """Different ones, the same in every run."""
    random, found = Random(1), dict.fromkeys(_ODD)
    while len(found) < count:
        found["".join(random.choice(_ODD) for _ in range(random.randint(1, 6)))] = None
    return list(found)


def _is_key(text: str) -> bool:
    with contextlib.suppress(InvalidKey):
        validate_key(text, Limits())
        return True
    return False


class StoreConformance:
    @pytest.fixture
    async def store(self, harness: Harness) -> AsyncIterator[Store]:
        store = harness.open()
        await store.open_collections(["note", "cart"])
        yield store
        await store.close()

    # Documents

    async def test_no_more_is_loaded_than_is_allowed(self, store: Store) -> None:
        keys = [f"k{n:03}" for n in range(60)]
        await commit(store, put(*((key, "x" * 100_000) for key in keys)))
        rows = await load(store, "note", keys)
        size_bytes = sum(row.size_bytes for row in rows.values())
        async with store.begin(Wanted({"note": keys}, most_bytes=size_bytes)) as transaction:
            assert len(transaction.rows) == 60
        with pytest.raises(TooLarge, match="hold more than 3000000 bytes together"):
            await load(store, "note", keys, most_bytes=3_000_000)
        await commit(store, put(("k000", 1)))
        assert (await load(store, "note", keys[:40], most_bytes=4_000_000))["k000"].value == b"1"

    async def test_commit_writes_what_the_transaction_has_seen_and_what_it_has_not(
        self, store: Store
    ) -> None:
        await commit(store, put(("seen", 1), ("unseen", 1), ("deleted", None)))
        async with store.begin(Wanted({"note": ["seen", "deleted", "new"]})) as transaction:
            assert sorted(key for _, key in transaction.rows) == ["deleted", "seen"]
            await transaction.commit(
                put(("seen", 2), ("unseen", 2), ("deleted", 2), ("new", 2), ("other", 2))
            )
        assert [(key, row.value) for key, row in (await store.scan("note")).rows] == [
            (key, b"2") for key in ("deleted", "new", "other", "seen", "unseen")
        ]

    async def test_absent_document_is_none(self, store: Store) -> None:
        assert await store.get("note", "ghost") is None
        assert await load(store, "note", ["ghost"]) == {}

    async def test_document_comes_back_byte_for_byte(self, store: Store) -> None:
        value, meta = '{"name":"Zoë 🏝","n":1.50}'.encode(), bytes(range(256))
        await commit(store, Commit(documents={"note": [("ключ 🔑", value, meta)]}))
        assert await store.get("note", "ключ 🔑") == Row(value, meta)
        assert await load(store, "note", ["ключ 🔑"]) == {"ключ 🔑": Row(value, meta)}

    async def test_whatever_the_schema_accepts_comes_back_as_it_was(
        self, store: Store, other: Harness
    ) -> None:
        texts = odd_texts(300)
        names = [text for text in texts if _is_key(text)]
        assert any("\ufdd0" in name for name in names)
        rows: list[tuple[str, bytes | None, bytes]] = [
            (name, json.dumps({"text": text}, ensure_ascii=at % 2 == 0).encode(), b"m")
            for at, (name, text) in enumerate(zip(names, texts, strict=False))
        ]
        records = [audit(f"{at}", key=name, field=f"map.{texts[at]}") for at, name in enumerate(names)]
        answers = [Remembered(name, 1, name.encode()) for name in names]
        whole = Commit(documents={"note": rows}, audit=records, remembered=answers)
        await commit(store, whole)
        copy = other.open()
        await copy.fill(given([chunk async for chunk in store.contents()]))
        await copy.open_collections(["note"])
        ordered = sorted(rows)
        for held in (store, copy):
            assert await load(held, "note", names) == {key: Row(value, meta) for key, value, meta in rows}
            assert [(key, row.value, row.meta) for key, row in await held.scan_all("note")] == ordered
            assert [await held.get("note", key) for key in names[:20]] == [Row(*row[1:]) for row in rows[:20]]
            for at in range(0, len(ordered), 10):
                key = ordered[at][0]
                assert keys((await held.scan("note", after=key, limit=1)).rows) == [
                    row[0] for row in ordered[at + 1 : at + 2]
                ]
                assert key in keys((await held.scan("note", prefix=key)).rows)
            assert await held.remembered(names) == {name: name.encode() for name in names}
            for record in records[:20]:
                assert record in await held.conflicts(AuditFilter(collection="note", key=record.key))
        await copy.close()

    async def test_second_write_replaces_the_first(self, store: Store) -> None:
        await commit(store, put(("a", {"n": 1})))
        await commit(store, put(("a", {"n": 2})))
        assert await store.get("note", "a") == Row(b'{"n": 2}', b"m:a")
        assert keys(await store.scan_all("note")) == ["a"]

    async def test_tombstone_is_read_but_not_scanned(self, store: Store) -> None:
        await commit(store, put(("a", {}), ("b", {})))
        await commit(store, put(("a", None)))
        assert await store.get("note", "a") == Row(None, b"m:a")
        assert keys((await store.scan("note")).rows) == ["b"]
        assert keys(await store.scan_all("note")) == ["a", "b"]

    async def test_erased_rows_leave_nothing(self, store: Store) -> None:
        await commit(store, put(("a", 1), ("b", 2), ("c", None)))
        await commit(store, Commit(documents=put(("b", 3)).documents, erased={"note": ["a", "c", "never"]}))
        assert [key for key, _ in await store.scan_all("note")] == ["b"]
        assert await load(store, "note", ["a", "b", "c"]) == {"b": Row(b"3", b"m:b")}
        await commit(store, put(("a", 4)))
        assert [key for key, _ in await store.scan_all("note")] == ["a", "b"]

    async def test_collections_are_separate(self, store: Store) -> None:
        await commit(store, put(("a", {"n": 1})))
        assert await store.get("cart", "a") is None

    async def test_unopened_collection_is_refused(self, store: Store) -> None:
        with pytest.raises(UnknownCollection):
            await store.get("ghost", "a")
        with pytest.raises(UnknownCollection):
            await commit(store, Commit(documents={"ghost": [("a", b"{}", b"")]}, clock=9))
        assert await store.clock() == 0

    async def test_opening_collections_again_keeps_them(self, store: Store) -> None:
        await commit(store, put(("a", {})))
        await store.open_collections(["note", "cart", "new-one"])
        assert keys((await store.scan("note")).rows) == ["a"]
        assert (await store.scan("new-one")).rows == []

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 64, 600, 1100])
    async def test_load_finds_what_exists_among_any_number_of_keys(self, store: Store, count: int) -> None:
        names = [f"k{n:04}" for n in range(count)]
        await commit(store, put(*((name, {"n": 1}) for name in names[::2])))
        assert sorted(await load(store, "note", [*names, *names[:3]])) == names[::2]

    # Scans

    async def test_keys_are_ordered_by_code_point(self, store: Store) -> None:
        names = ["", "A", "Z", "a", "a/b", "aa", "z", "é", "中", "\ufb01", "\uffff", "😀", "\U0010ffff"]
        await commit(store, put(*((name, {}) for name in reversed(names))))
        assert keys((await store.scan("note")).rows) == names == sorted(names)

    async def test_pages_follow_each_other(self, store: Store) -> None:
        names = [f"k{n}" for n in range(7)]
        await commit(store, put(*((name, {}) for name in names)))
        pages, after = [], None
        while page := keys((await store.scan("note", after=after, limit=3)).rows):
            pages.append(page)
            after = page[-1]
        assert pages == [names[:3], names[3:6], names[6:]]
        assert keys(await store.scan_all("note", after="k4", limit=1)) == ["k5"]

    async def test_a_page_ends_with_the_row_that_reaches_its_bytes(self, store: Store) -> None:
        await commit(store, put(*((f"k{n}", {"text": "x" * 1000 * n}) for n in range(5))))
        rows = dict(await store.scan_all("note"))
        first = rows["k0"].size_bytes
        for most in (1, first, first + 1, 3500, 9_999_999):
            seen: list[str] = []
            while page := await store.scan_all("note", after=(seen or [None])[-1], limit=4, limit_bytes=most):
                shown = await store.scan("note", after=(seen or [None])[-1], limit=4, limit_bytes=most)
                assert shown.rows == page
                assert sum(row.size_bytes for _, row in page[:-1]) < most
                more = await store.scan_all("note", after=page[-1][0])
                assert cut_short([row for _, row in page], 4, most) or not more
                seen += keys(page)
            assert seen == list(rows)

    async def test_a_page_of_records_or_changes_is_bounded(self, store: Store) -> None:
        records = [audit(f"c{n}", n)._replace(body=b'"%b"' % (b"x" * 1000)) for n in range(5)]
        changes = [Parked("tokyo", n, 0, "refused", "why", b"x" * 1000) for n in range(1, 6)]
        await commit(store, Commit(audit=records, parked=changes))
        assert await store.conflicts(AuditFilter(), limit_bytes=1003) == records[:2:-1]
        assert await store.conflicts(AuditFilter(), limit_bytes=1002) == records[:3:-1]
        assert await store.parked(limit_bytes=1001, after=changes[0][:3]) == changes[1:3]
        assert await store.parked(limit_bytes=1) == changes[:1]

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
    async def test_prefix_finds_all_and_only_its_keys(
        self, store: Store, prefix: str, expected: list[str]
    ) -> None:
        names = ["", "a", "a/1", "a\U0010ffff", "a\U0010ffffz", "b", "\ud7ff", "\ud7ffx", "\ue000"]
        await commit(store, put(*((name, {}) for name in [*names, "\U0010ffff", "\U0010ffff\U0010ffff"])))
        assert keys((await store.scan("note", prefix=prefix)).rows) == expected

    @pytest.mark.parametrize(("after", "expected"), [("", ["b1", "b2"]), ("b1", ["b2"]), ("c", [])])
    async def test_prefix_and_cursor_narrow_together(
        self, store: Store, after: str, expected: list[str]
    ) -> None:
        await commit(store, put(("a", {}), ("b1", {}), ("b2", {}), ("d", {})))
        assert keys((await store.scan("note", prefix="b", after=after)).rows) == expected

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
    async def test_condition_compares_within_one_type(
        self, store: Store, condition: Condition, expected: list[str]
    ) -> None:
        held = {"int": 1, "real": 1.0, "two": 2, "text": "1", "true": True, "null": None}
        held |= {"list": [1, "a", None, True], "map": {"a": 1}}
        await commit(store, put(("absent", {}), *((key, {"n": value}) for key, value in held.items())))
        assert keys((await store.scan("note", where=[condition])).rows) == expected

    async def test_conditions_narrow_together_before_the_limit(self, store: Store) -> None:
        await commit(store, put(*((f"k{n}", {"n": n, "even": n % 2 == 0}) for n in range(9))))
        where = [Condition("even", "eq", True), Condition("n", "gt", 2)]
        assert keys((await store.scan("note", where=where, limit=2)).rows) == ["k4", "k6"]

    async def test_text_contains_a_part_with_any_characters(self, store: Store) -> None:
        await commit(store, put(("a", {"título": "50% off_ 'now' 🏝"}), ("b", {"título": "none"})))
        for part in ("% off_", "'now'", "🏝"):
            assert keys((await store.scan("note", where=[Condition("título", "contains", part)])).rows) == [
                "a"
            ]

    @pytest.mark.parametrize(
        "condition",
        [
            Condition("n", "lt", None),
            Condition("n", "ge", True),
            Condition('a"b', "eq", 1),
            Condition("", "eq", 1),
        ],
    )
    async def test_senseless_condition_is_refused(self, store: Store, condition: Condition) -> None:
        with pytest.raises(InvalidOperation):
            await store.scan("note", where=[condition])

    @pytest.mark.parametrize("indexed", [False, True])
    @pytest.mark.parametrize("kind", sorted(HELD))
    async def test_texts_are_compared_as_what_they_stand_for(
        self, store: Store, kind: Kind, *, indexed: bool
    ) -> None:
        held = {f"k{n:03}": value for n, value in enumerate([*HELD[kind], *NONE])}
        await commit(store, put(*((key, {"n": value}) for key, value in held.items()), ("absent", {})))
        if indexed:
            decimals = frozenset({"n"} if kind == "decimal" else ())
            await store.declare([Shape("note", (("n", "text"),), ("n",), decimals)])
        for value in HELD[kind]:
            for op, wanted in _ORDERS.items():
                condition = Condition("n", op, str(value), kind)
                found = {key for key, each in held.items() if wanted(compare(kind, each, str(value)))}
                expected = found | {"absent"} if op == "ne" else found
                assert keys((await store.scan("note", where=[condition], limit=1000)).rows) == sorted(
                    expected
                ), condition

    @pytest.mark.parametrize("kind", sorted(HELD))
    async def test_lists_contain_what_texts_stand_for(self, store: Store, kind: Kind) -> None:
        held = {f"k{n:03}": value for n, value in enumerate([*HELD[kind], *NONE])}
        await commit(store, put(*((key, {"n": ["other", value]}) for key, value in held.items())))
        for value in HELD[kind]:
            condition = Condition("n", "contains", str(value), kind)
            expected = [key for key, each in held.items() if compare(kind, each, str(value)) == 0]
            assert keys((await store.scan("note", where=[condition])).rows) == expected

    @pytest.mark.parametrize("op", ["eq", "ne", "lt", "le", "gt", "ge", "contains"])
    async def test_an_index_changes_no_answer(self, store: Store, op: Operator) -> None:
        held = [
            1,
            1.0,
            2,
            -3.5,
            10**400,
            "1",
            "a",
            "a" * 200,
            "a" * 200 + "b",
            "\x00",
            True,
            None,
            [1],
            {"a": 1},
        ]
        await commit(
            store, put(("absent", {}), *((f"k{at:02}", {"n": value}) for at, value in enumerate(held)))
        )
        values = [
            1,
            2,
            -3.5,
            1e308,
            "a",
            "a" * 200,
            "\x00",
            *([] if op in ("lt", "le", "gt", "ge") else [True, None]),
        ]
        asked = [Condition("n", op, value) for value in values]
        before = [keys((await store.scan("note", where=[condition])).rows) for condition in asked]
        await store.declare([Shape("note", (("n", "json"),), ("n",)), Shape("cart")])
        assert [keys((await store.scan("note", where=[condition])).rows) for condition in asked] == before
        assert any(before)
        await store.declare([Shape("note"), Shape("cart")])
        assert [keys((await store.scan("note", where=[condition])).rows) for condition in asked] == before

    # Journal, positions, clock

    async def test_new_store_has_seen_nothing(self, store: Store) -> None:
        assert (await store.positions(), await store.clock(), await store.journal_tail()) == ({}, 0, 0)
        assert await store.journal(0) == []
        assert await store.journal_start({}, ["tokyo"]) == 0

    async def test_journal_comes_back_in_commit_order(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 4), ("oregon", 1, 1)))
        await commit(store, segments(("tokyo", 5, 5)))
        expected = [("tokyo", 1, 4), ("oregon", 1, 1), ("tokyo", 5, 5)]
        assert [numbered.segment[:3] for numbered in await store.journal(0)] == expected
        first = (await store.journal(0))[0]
        assert first == Numbered(first.id, Segment("tokyo", 1, 4, b"xxx"))
        assert [numbered.segment[:3] for numbered in await store.journal(first.id)] == expected[1:]
        assert (await store.journal(0))[-1].id == await store.journal_tail()
        assert await store.positions() == {"oregon": 1, "tokyo": 5}

    async def test_journal_is_bounded_in_rows_and_bytes(self, store: Store) -> None:
        await commit(store, segments(*(("tokyo", n, n) for n in range(1, 10)), size=100))
        assert len(await store.journal(0, limit=4)) == 4
        assert len(await store.journal(0, limit_bytes=350)) == 4
        assert len(await store.journal(0, limit_bytes=300)) == 3
        assert len(await store.journal(0, limit_bytes=1)) == 1

    async def test_journal_starts_before_the_first_unseen_entry(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 3), ("oregon", 1, 2), ("tokyo", 4, 6), ("oregon", 3, 3)))

        async def unseen(vector: dict[str, int], *origins: str) -> list[tuple[Any, ...]]:
            return [
                numbered.segment[:3]
                for numbered in await store.journal(await store.journal_start(vector, origins))
            ]

        assert await unseen({"tokyo": 3, "oregon": 3}, "tokyo", "oregon") == [
            ("tokyo", 4, 6),
            ("oregon", 3, 3),
        ]
        assert await unseen({"tokyo": 5, "oregon": 2}, "oregon") == [("oregon", 3, 3)]
        assert (await unseen({"tokyo": 2}, "tokyo"))[0] == ("tokyo", 1, 3)
        assert await unseen({"tokyo": 6, "oregon": 3}, "tokyo", "oregon", "unheard") == []

    async def test_truncation_takes_the_oldest_in_chunks_and_spares_the_newest(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 2), ("oregon", 1, 1), ("tokyo", 3, 3), ("tokyo", 4, 9)))
        assert await store.truncate(0) == 0
        assert [await store.truncate(2, limit=1) for _ in range(3)] == [1, 1, 0]
        assert [numbered.segment[:3] for numbered in await store.journal(0)] == [
            ("tokyo", 3, 3),
            ("tokyo", 4, 9),
        ]
        assert await store.truncate(1 << 60) == 1
        assert await store.truncate(1 << 60) == 0
        assert await store.journal_tail() == 4
        assert await store.positions() == {"oregon": 1, "tokyo": 9}

    async def test_a_truncated_journal_goes_on(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 2), ("oregon", 1, 1), ("tokyo", 3, 3)))
        assert await store.truncate(2) == 2
        await commit(store, segments(("oregon", 2, 2)))
        assert [(each.id, each.segment[:3]) for each in await store.journal(0)] == [
            (3, ("tokyo", 3, 3)),
            (4, ("oregon", 2, 2)),
        ]
        assert await store.journal(3) == (await store.journal(0))[1:]
        assert (await store.segment("tokyo", 2), await store.segment("oregon", 1)) == (None, None)
        assert await store.journal_start({}, ["tokyo", "oregon"]) == 2
        assert await store.journal_start({"tokyo": 3}, ["tokyo", "oregon"]) == 3
        assert await store.journal_start({"tokyo": 3, "oregon": 2}, ["tokyo", "oregon"]) == 4

    async def test_a_refusing_disk_truncates_nothing(self, harness: Harness, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 2), ("tokyo", 3, 3)))
        await harness.refuse_writes(store)
        with pytest.raises((StoreError, Indefinite)):  # a database may break the connection to refuse
            await store.truncate(1)
        await harness.accept_writes(store)
        assert (await store.journal_extent()).after_id == 0

    async def test_extent_says_what_is_kept(self, store: Store) -> None:
        assert await store.journal_extent() == (0, 0, 0)
        await commit(store, segments(*(("tokyo", n, n) for n in range(1, 6)), size=100))
        assert await store.journal_extent() == (0, 5, 500)
        await store.truncate(3)
        extent = await store.journal_extent()
        assert extent == (3, 5, 200)
        assert extent.segments == 2

    async def test_extent_of_a_long_journal_is_about_right(self, store: Store) -> None:
        await commit(store, segments(*(("tokyo", n, n) for n in range(1, 1001)), size=50))
        await commit(store, segments(*(("tokyo", n, n) for n in range(1001, 2001)), size=150))
        after_id, tail, size_bytes = await store.journal_extent()
        assert (after_id, tail) == (0, 2000)
        assert abs(size_bytes - 200_000) < 4_000

    async def test_segment_is_found_by_any_of_its_entries(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 3), ("tokyo", 7, 9)))
        found = [await store.segment("tokyo", seq) for seq in range(11)]
        spans = [segment and (segment.first_seq, segment.last_seq) for segment in found]
        assert spans == [None, *[(1, 3)] * 3, *[None] * 3, *[(7, 9)] * 3, None]
        assert await store.segment("oregon", 1) is None

    async def test_segment_written_twice_is_refused_whole(self, store: Store) -> None:
        await commit(store, segments(("tokyo", 1, 3)))
        again = put(("a", {}))
        again.segments.append(Segment("tokyo", 2, 3, b"other"))
        with pytest.raises(StoreCorrupt):
            await commit(store, again)
        assert await store.get("note", "a") is None
        assert await store.segment("tokyo", 2) == Segment("tokyo", 1, 3, b"xxx")

    async def test_clock_never_goes_back(self, store: Store) -> None:
        stamp = 1_900_000_000_000 << 16
        for clock in (stamp, 5, None):
            await commit(store, Commit(clock=clock))
            assert await store.clock() == stamp

    async def test_counter_only_rises(self, store: Store) -> None:
        assert await store.counter("epoch") == 0
        seen = []
        for value in (3, 2, 7):
            await store.raise_counter("epoch", value)
            seen.append(await store.counter("epoch"))
        assert seen == [3, 3, 7]
        assert await store.counter("other") == 0

    async def test_counter_gives_no_number_twice(self, store: Store) -> None:
        taken = [await store.advance_counter("ids", by) for by in (1, 10, 1)]
        assert taken == [1, 11, 12]
        assert await store.counter("ids") == 12

    async def test_a_lease_is_had_and_renewed(self, store: Store) -> None:
        for _ in range(2):
            assert await store.lease(["link oregon", "link paris"], 60) == {"link oregon": 1, "link paris": 1}
        assert await store.lease([], 60) == {}

    async def test_a_fence_that_is_current_lets_a_commit_pass(self, store: Store) -> None:
        held = await store.lease(["pages", "spare"], 60)
        async with store.begin(Wanted(fences=["pages"])) as transaction:
            assert transaction.generations == {"pages": held["pages"]}
            fenced = put(("a", 1))
            fenced.fences = dict(held)
            await transaction.commit(fenced)
        assert keys((await store.scan("note")).rows) == ["a"]

    @pytest.mark.parametrize("fences", [{"pages": 2}, {"pages": 1, "spare": 9}, {"pages": 0}])
    async def test_a_fence_that_is_not_current_refuses_the_whole_commit(
        self, store: Store, fences: dict[str, int]
    ) -> None:
        await store.lease(["pages", "spare"], 60)
        fenced = put(("a", 1))
        fenced.positions, fenced.states, fenced.fences = {"tokyo": 1}, {("s", "k"): b"v"}, fences
        with pytest.raises(FenceLost):
            await commit(store, fenced)
        assert (await store.get("note", "a"), await store.positions(), await store.states("s")) == (
            None,
            {},
            [],
        )

    # Protocols' states

    async def test_a_transaction_shows_the_states_that_it_wants(self, store: Store) -> None:
        await commit(
            store, Commit(states={("a", "1"): b"x", ("a", "2/\x00"): b"", ("b", "1"): bytes(range(256))})
        )
        async with store.begin(Wanted(states=[("a", "2/\x00"), ("b", "1"), ("b", "2")])) as transaction:
            assert transaction.states == {("a", "2/\x00"): b"", ("b", "1"): bytes(range(256))}
        async with store.begin(Wanted()) as transaction:
            assert transaction.states == {}

    async def test_each_transaction_shows_the_states_as_they_are(self, store: Store) -> None:
        shown = []
        for value in (b"x", b"y", None, b"z"):
            async with store.begin(Wanted(states=[("a", "1")])) as transaction:
                shown.append(dict(transaction.states))
                await transaction.commit(Commit(states={("a", "1"): value}))
        async with store.begin(Wanted(states=[("a", "1")])) as transaction:
            shown.append(dict(transaction.states))
        assert shown == [{}, {("a", "1"): b"x"}, {("a", "1"): b"y"}, {}, {("a", "1"): b"z"}]

    async def test_a_state_is_replaced_and_removed(self, store: Store) -> None:
        await commit(store, Commit(states={("a", "1"): b"x", ("a", "2"): b"y", ("b", "1"): b"z"}))
        await commit(store, Commit(states={("a", "1"): b"new", ("a", "2"): None, ("a", "never"): None}))
        assert await store.states("a") == [("1", b"new")]
        assert (await store.state("a", "2"), await store.state("b", "1")) == (None, b"z")

    async def test_states_are_read_by_prefix_and_page(self, store: Store) -> None:
        names = ["", "p", "p/1", "p/2", "p/\U0010ffff", "q", "é"]
        await commit(store, Commit(states={("a", name): name.encode() for name in reversed(names)}))
        assert await store.states("a") == [(name, name.encode()) for name in names]
        assert [key for key, _ in await store.states("a", prefix="p/")] == names[2:5]
        assert [key for key, _ in await store.states("a", prefix="p", after="p/1", limit=1)] == ["p/2"]
        assert await store.states("other") == []

    # Turns

    async def test_transaction_shows_what_is_committed_and_asked_for(self, store: Store) -> None:
        first = put(("a", {"n": 1}), ("b", None))
        first.positions, first.clock = {"tokyo": 2}, 7
        first.audit, first.remembered = [audit("c1"), audit("c2")], [Remembered("k", 1, b"one")]
        await commit(store, first)
        wanted = Wanted({"note": ["a", "b", "ghost"], "cart": ["a"]}, ["k", "never"], ["c2", "never"])
        async with store.begin(wanted) as transaction:
            assert (dict(transaction.positions), transaction.clock) == ({"tokyo": 2}, 7)
            assert transaction.rows == {
                ("note", "a"): Row(b'{"n": 1}', b"m:a"),
                ("note", "b"): Row(None, b"m:b"),
            }
            assert (transaction.remembered, transaction.audit) == ({"k": b"one"}, {"c2": audit("c2")})

    async def test_transaction_that_is_left_changes_nothing(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.begin(Wanted({"note": ["a"]})):
                raise ZeroDivisionError
        await commit(store, put(("a", {})))
        assert keys((await store.scan("note")).rows) == ["a"]

    async def test_transaction_goes_on_from_the_one_before(self, store: Store) -> None:
        for seq in range(1, 4):
            async with store.begin(Wanted()) as transaction:
                assert transaction.positions.get("tokyo", 0) == seq - 1
                await transaction.commit(segments(("tokyo", seq, seq)))
        assert await store.positions() == {"tokyo": 3}

    async def test_transaction_finds_the_open_records_of_documents(self, store: Store) -> None:
        rows = [audit("a", 1), audit("b", 3), audit("c", 2, status="manual"), audit("d", 1, key="other")]
        rows += [audit("s", 9, status="resolved"), audit("n", 1, key="nul\x00")]
        await commit(store, Commit(audit=[*rows, audit("e", 1, collection="cart")]))
        async with store.begin(Wanted(open_records={"note": ["k", "ghost", "nul\x00"]})) as transaction:
            found = transaction.open_records
        assert [row.id for row in found["note", "k"]] == ["b", "c", "a"]
        assert [row.id for row in found["note", "nul\x00"]] == ["n"]
        assert not found.get(("note", "ghost"))

    async def test_read_tells_the_moment(self, store: Store) -> None:
        assert await store.read("note", "a") == (None, {})
        written = put(("a", {"n": 1}))
        written.positions = {"tokyo": 1}
        await commit(store, written)
        assert await store.read("note", "a") == (Row(b'{"n": 1}', b"m:a"), {"tokyo": 1})

    async def test_scan_tells_the_moment(self, store: Store) -> None:
        async def write() -> None:
            for n in range(1, 31):
                written = put((f"k{n:02}", {"n": n}))
                written.positions = {"tokyo": n}
                await commit(store, written)

        assert await store.scan("note") == ([], {})
        writing = asyncio.create_task(write())
        while not writing.done():
            rows, positions = await store.scan("note")
            assert len(rows) == positions.get("tokyo", 0)
            await asyncio.sleep(0)
        await writing
        assert await store.scan("note", prefix="none") == ([], {"tokyo": 30})
        rows, positions = await store.scan("note", after="k07", limit=2)
        assert (keys(rows), positions) == (["k08", "k09"], {"tokyo": 30})

    # Audit, idempotency keys, parked changes

    async def test_conflict_record_is_replaced_by_id(self, store: Store) -> None:
        resolved = audit("c1", 5, status="resolved", uncertain=True, body='{"losing":"ö"}'.encode())
        await commit(store, Commit(audit=[audit("c1", 5)]))
        await commit(store, Commit(audit=[resolved]))
        assert await store.conflicts(AuditFilter()) == [resolved]
        assert await store.conflict("c1") == resolved
        assert await store.conflict("c2") is None

    async def test_conflict_removed_and_written_in_one_commit_stays(self, store: Store) -> None:
        await commit(store, Commit(audit=[audit("c1"), audit("c2")]))
        await commit(store, Commit(audit_removed=["c1", "c2", "never"], audit=[audit("c2")]))
        assert [row.id for row in await store.conflicts(AuditFilter())] == ["c2"]

    async def test_conflicts_page_from_the_newest(self, store: Store) -> None:
        await commit(store, Commit(audit=[audit("a", 1), audit("b", 2), audit("c", 2), audit("d", 3)]))
        pages, after = [], None
        while page := await store.conflicts(AuditFilter(), after=after, limit=3):
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
    async def test_conflicts_are_filtered(
        self, store: Store, wanted: AuditFilter, expected: list[str]
    ) -> None:
        rows = [
            audit("a", 1),
            audit("b", 2, collection="cart"),
            audit("c", 3, key="x", losing_origin="paris"),
        ]
        rows.append(audit("d", 4, kind="delete_exists", status="manual", winning_origin="paris"))
        await commit(store, Commit(audit=rows))
        assert [row.id for row in await store.conflicts(wanted)] == expected

    async def test_answers_are_remembered(self, store: Store) -> None:
        await commit(store, Commit(remembered=[Remembered("k1", 1, b"one"), Remembered("k2", 1, b"two")]))
        await commit(store, Commit(remembered=[Remembered("k2", 2, b"again")]))
        assert await store.remembered(["k1", "k2", "k3"]) == {"k1": b"one", "k2": b"again"}
        assert await store.remembered([]) == {}

    async def test_parked_changes_are_listed_by_dot(self, store: Store) -> None:
        changes = [
            Parked("tokyo", 2, 1, "refused", "unknown kind", b"b"),
            Parked("tokyo", 2, 0, "refused", "unknown kind", b"a"),
        ]
        changes.append(Parked("oregon", 9, 0, "refused", "too deep", b"c"))
        await commit(store, Commit(parked=changes))
        await commit(store, Commit(parked=changes[:1]))
        assert await store.parked() == sorted(changes)
        assert await store.parked(limit=1) == [changes[2]]

    async def test_parked_changes_page_and_go_once_they_are_merged(self, store: Store) -> None:
        changes = [Parked("tokyo", seq, 0, "refused", "unknown kind", b"x") for seq in (1, 2, 10)]
        await commit(store, Commit(parked=changes))
        assert await store.parked(limit=1, after=("tokyo", 1, 0)) == [changes[1]]
        await commit(store, Commit(unparked=[("tokyo", 1, 0), ("tokyo", 2, 0)], parked=[changes[1]]))
        assert await store.parked() == changes[1:]

    async def test_declarations_that_are_taken_up_are_kept(self, store: Store) -> None:
        assert await store.schemas() == {}
        async with store.begin(Wanted()) as transaction:
            assert dict(transaction.schemas) == {}
        await commit(store, Commit(schemas={"note": "old", "cart": "new"}))
        await commit(store, Commit(schemas={"note": "new"}))
        assert await store.schemas() == {"note": "new", "cart": "new"}
        async with store.begin(Wanted()) as transaction:
            assert dict(transaction.schemas) == {"note": "new", "cart": "new"}

    async def test_retention_goes_by_age(self, store: Store) -> None:
        old, new = audit("old", 10), audit("new", 20)
        answers = [Remembered("old", 10, b""), Remembered("new", 20, b"")]
        await commit(store, Commit(audit=[old, new, audit("manual", 1, status="manual")], remembered=answers))
        assert await store.forget(remembered_before_ms=20, audit_before_ms=20, audit_keep=100) == 2
        assert [row.id for row in await store.conflicts(AuditFilter())] == ["new", "manual"]
        assert list(await store.remembered(["old", "new"])) == ["new"]

    async def test_retention_keeps_the_newest_and_every_manual_record(self, store: Store) -> None:
        rows = [audit(f"c{n}", n, status="manual" if n == 0 else "open") for n in range(6)]
        await commit(store, Commit(audit=rows))
        assert await store.forget(remembered_before_ms=0, audit_before_ms=0, audit_keep=3) == 3
        assert [row.id for row in await store.conflicts(AuditFilter())] == ["c5", "c4", "c0"]
        assert await store.forget(remembered_before_ms=0, audit_before_ms=0, audit_keep=0) == 2
        assert [row.id for row in await store.conflicts(AuditFilter())] == ["c0"]

    # The whole

    async def test_everything_committed_is_there_after_reopening(
        self, harness: Harness, store: Store
    ) -> None:
        everything = put(("a", {"n": 1}), ("b", None))
        everything.segments, everything.positions, everything.clock = (
            [Segment("tokyo", 1, 2, b"s")],
            {"tokyo": 2},
            7,
        )
        everything.audit, everything.remembered = [audit("c")], [Remembered("k", 1, b"r")]
        everything.parked = [Parked("tokyo", 2, 0, "refused", "why", b"p")]
        everything.states = {("s", "k"): b"v"}
        await commit(store, everything)
        await store.close()
        again = harness.open()
        await again.open_collections(["note"])
        assert keys(await again.scan_all("note")) == ["a", "b"]
        assert (await again.positions(), await again.clock(), await again.journal_tail()) == (
            {"tokyo": 2},
            7,
            1,
        )
        assert await again.conflict("c") == audit("c")
        assert (await again.remembered(["k"]), await again.parked()) == ({"k": b"r"}, everything.parked)
        assert await again.state("s", "k") == b"v"

    async def test_contents_fill_another_store_that_is_then_equal(
        self, harness: Harness, other: Harness, store: Store
    ) -> None:
        everything = put(
            *((f"k{n}", {"n": "x" * 1000}) for n in range(6000)), ("gone", None), ("ä\U0001f3dd", 1)
        )
        everything.segments = [Segment("tokyo", 1, 2, b"s" * 3_000_000), Segment("oregon", 1, 1, b"")]
        everything.positions, everything.clock = {"tokyo": 2, "oregon": 1}, 7
        everything.audit = [audit("c", uncertain=True), audit("d", body='{"ä":1}'.encode())]
        everything.remembered = [Remembered("k", 1, b"r")]
        everything.parked = [Parked("tokyo", 2, 0, "refused", "why", b"p")]
        everything.schemas = {"note": "new"}
        everything.states = {("pages", f"{n:04}\ufdd0"): b"p" * 1000 for n in range(3000)}
        await commit(store, everything)
        await store.raise_counter("ids", 9)
        filled = other.open()
        await filled.fill(store.contents())
        await filled.close()
        again = other.open()
        await again.open_collections(["note", "cart"])
        for each in ("note", "cart"):
            assert await again.scan_all(each, limit=9999) == await store.scan_all(each, limit=9999)
        assert await again.journal(0) == await store.journal(0)
        assert (await again.positions(), await again.clock()) == (await store.positions(), 7)
        assert await again.conflicts(AuditFilter()) == await store.conflicts(AuditFilter())
        assert await again.parked() == everything.parked
        assert await again.remembered(["k"]) == {"k": b"r"}
        assert (await again.schemas(), await again.counter("ids")) == ({"note": "new"}, 9)
        assert dict(await again.states("pages", limit=9999)) == {
            key: value for (_, key), value in everything.states.items()
        }
        # And it goes on.
        await commit(again, segments(("tokyo", 3, 3)))
        assert (await again.positions())["tokyo"] == 3
        assert await again.journal_tail() == 3
        assert (await again.statistics()).documents == (await store.statistics()).documents
        await again.close()

    async def test_contents_are_of_one_moment(self, other: Harness, store: Store) -> None:
        everything = put(*((f"k{n:04}", "x" * 1000) for n in range(6000)))
        everything.positions, everything.segments = {"tokyo": 1}, [Segment("tokyo", 1, 1, b"s")]
        await commit(store, everything)
        chunks = store.contents()
        taken = [await anext(chunks)]
        later = put(("k0000", "new"), ("k5999", "new"), ("l", "new"))
        later.positions, later.segments = {"tokyo": 2}, [Segment("tokyo", 2, 2, b"t")]
        await commit(store, later)
        taken += [chunk async for chunk in chunks]
        filled = other.open()
        await filled.fill(given(taken))
        assert await filled.positions() == {"tokyo": 1}
        assert await filled.journal_tail() == 1
        assert b"new" not in {row.value for _, row in await filled.scan_all("note", limit=9999)}
        await filled.close()

    async def test_filling_is_all_or_nothing(self, store: Store) -> None:
        async def ends_badly() -> AsyncIterator[Chunk]:
            yield Chunk(put(("a", 1)), {"ids": 1})
            raise StoreCorrupt("the archive is damaged")

        with pytest.raises(StoreCorrupt, match="damaged"):
            await store.fill(ends_badly())
        assert await store.scan_all("note") == []
        assert await store.counter("ids") == 0
        await store.fill(given([Chunk(put(("b", 1)))]))
        assert keys(await store.scan_all("note")) == ["b"]

    @pytest.mark.parametrize(
        "held",
        [
            Chunk(put(("a", None))),
            Chunk(counters={"ids": 1}),
            Chunk(segments(("t", 1, 1))),
            Chunk(Commit(states={("s", "k"): b"v"})),
        ],
    )
    async def test_only_an_empty_store_is_filled(self, store: Store, held: Chunk) -> None:
        await store.fill(given([held]))
        with pytest.raises(StoreError, match="is not empty"):
            await store.fill(given([Chunk(put(("b", 1)))]))
        assert "b" not in keys(await store.scan_all("note"))

    async def test_refused_commit_changes_nothing_and_a_later_one_works(
        self, harness: Harness, store: Store
    ) -> None:
        await commit(store, put(("a", {"n": 1})))
        await harness.refuse_writes(store)
        change = put(("a", {"n": 2}), ("b", {"blob": "x" * 200_000}))
        change.segments, change.positions, change.audit = (
            [Segment("tokyo", 1, 1, b"s")],
            {"tokyo": 1},
            [audit("c")],
        )
        with pytest.raises(StoreUnwritable):
            await commit(store, change)
        assert keys((await store.scan("note")).rows) == ["a"]
        assert (
            await store.get("note", "a")
            == Row(b'{"n": 1}', b"m:a")
            == (await load(store, "note", ["a"]))["a"]
        )
        assert (await store.positions(), await store.journal(0), await store.conflict("c")) == ({}, [], None)
        await harness.accept_writes(store)
        await commit(store, change)
        assert (keys((await store.scan("note")).rows), await store.positions()) == (["a", "b"], {"tokyo": 1})

    async def test_statistics_count_what_is_there(self, store: Store) -> None:
        await commit(store, put(("a", {}), ("b", {}), ("c", None)))
        await commit(store, Commit(audit=[audit("x")], parked=[Parked("tokyo", 1, 0, "refused", "why", b"")]))
        found = await store.statistics()
        assert (found.documents["note"], found.tombstones["note"]) == (2, 1)
        assert (found.documents["cart"], found.conflicts, found.parked) == (0, 1, 1)
        assert found.size_bytes > 0

    async def test_checkpoint_loses_nothing(self, store: Store) -> None:
        await commit(store, put(("a", {})))
        await store.checkpoint()
        await commit(store, put(("b", {})))
        await store.checkpoint()
        assert keys((await store.scan("note")).rows) == ["a", "b"]

    async def test_closed_store_refuses_and_closes_again(self, store: Store) -> None:
        await store.close()
        await store.close()
        await store.checkpoint()
        with pytest.raises(StoreError):
            await store.get("note", "a")
        with pytest.raises(StoreError):
            await commit(store, put(("a", {})))


class SharedStoreConformance:
    """Of a store that several nodes may open; with a fixture `nodes`: two of them on one database."""

    async def test_a_lease_has_a_generation_for_each_holder(self, nodes: tuple[Store, Store]) -> None:
        one, other = nodes
        assert await one.lease(["pages"], 60) == {"pages": 1}
        assert await other.lease(["pages"], 60) == {}
        assert await one.lease(["pages"], 60) == {"pages": 1}
        await one.give_back(["pages"])
        assert await other.lease(["pages"], 60) == {"pages": 2}
        assert await one.lease(["pages"], 60) == {}
        await other.lease(["pages"], -1)  # it has run out
        assert await one.lease(["pages"], 60) == {"pages": 3}

    async def test_a_commit_of_a_paused_holder_is_refused(self, nodes: tuple[Store, Store]) -> None:
        paused, other = nodes
        held = await paused.lease(["pages"], -1)
        async with paused.begin(Wanted(fences=["pages"])) as transaction:
            assert transaction.generations == held
            taken = await other.lease(["pages"], 60)
            late = put(("a", "late"))
            late.fences = dict(held)
            with pytest.raises(FenceLost):
                await transaction.commit(late)
        assert await paused.get("note", "a") is None
        fenced = put(("a", "new"))
        fenced.fences = dict(taken)
        await commit(other, fenced)
        row = await paused.get("note", "a")
        assert row is not None
        assert row.value == b'"new"'

    async def test_a_lease_that_nobody_took_over_still_fences(self, nodes: tuple[Store, Store]) -> None:
        one, _ = nodes
        held = await one.lease(["pages"], -1)
        fenced = put(("a", 1))
        fenced.fences = dict(held)
        await commit(one, fenced)
        assert keys((await one.scan("note")).rows) == ["a"]
