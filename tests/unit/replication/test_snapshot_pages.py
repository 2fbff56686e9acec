"""What a region holds, read by pages of bounded size for a peer that lacks more than the journal has."""

from __future__ import annotations

import pytest

from atoll.causality.types import Seq, Stamp
from atoll.documents.entry import Entry, encode_frame
from atoll.replication.messages import SnapshotCall, SnapshotPlace, SnapshotReply
from atoll.replication.snapshot import Content, entries_of, open_page, read_page
from atoll.schema.bounds import SEGMENT_BYTES
from atoll.store.memory.store import MemoryStore
from atoll.store.port import AuditRow, Commit, Parked, Row, Segment, Wanted

SIZES = (10, 700_000, 400_000, 0, 2_000_000, 300_000, 300_000, 300_000, 300_000, 10)


async def filled() -> MemoryStore:
    store = MemoryStore()
    await store.open_collections(["note", "other"])
    rows: list[tuple[str, bytes | None, bytes]] = [
        (f"k{n}", b"x" * size or None, b"m") for n, size in enumerate(SIZES)
    ]
    audit = [
        AuditRow(f"c{n}", "note", "k", "", "kind", "resolved", n, "a", "b", "lww", False, b"x" * size)
        for n, size in enumerate(SIZES)
    ]
    parked = [Parked("a", n, 0, "refused", "why", b"x" * size) for n, size in enumerate(SIZES, 1)]
    async with store.begin(Wanted()) as transaction:
        await transaction.commit(
            Commit(documents={"note": rows, "other": rows[:1]}, audit=audit, parked=parked, clock=Stamp(9))
        )
    return store


async def pages(store: MemoryStore, most_rows: int) -> list[Content]:
    async def whole() -> None: ...

    found, place = [], SnapshotPlace()
    while place is not None:
        page: SnapshotReply = await read_page(
            store, {}, SnapshotCall(place, "b"), (0, 0), whole, others=["note", "other"], most_rows=most_rows
        )
        found.append(open_page(page))
        place = page.next
    return found


@pytest.mark.parametrize("most_rows", [1, 3, 2000])
async def test_pages_are_bounded_and_hold_everything(most_rows: int) -> None:
    found = await pages(await filled(), most_rows)
    documents = [(page.collection, key) for page in found for key, _, _ in page.documents]
    assert documents == [("note", f"k{n}") for n in range(len(SIZES))] + [("other", "k0")]
    assert [id for page in found for id, _ in page.resolved] == [f"c{n}" for n in range(len(SIZES))][::-1]
    assert [each.seq for page in found for each in page.parked] == list(range(1, len(SIZES) + 1))
    for page in found:
        sizes = [Row(value, meta).size_bytes for _, value, meta in page.documents]
        sizes += [len(body) for _, body in page.resolved] + [len(each.body) for each in page.parked]
        assert len(sizes) <= most_rows
        assert sum(sizes[:-1]) < SEGMENT_BYTES


async def test_entries_end_where_they_are_asked_for_or_where_the_journal_does_not_hold_them() -> None:
    store = MemoryStore()
    for origin, first, last in (("a", 1, 2), ("b", 1, 3), ("a", 3, 4), ("c", 1, 1)):
        entries = [
            Entry(origin, Seq(seq), Stamp(seq), 0, {origin: seq - 1} if seq > 1 else {}, ())
            for seq in range(first, last + 1)
        ]
        segment = Segment(origin, first, last, b"".join(map(encode_frame, entries)))
        async with store.begin(Wanted()) as transaction:
            await transaction.commit(Commit(segments=[segment], positions={origin: last}))

    async def asked(since: dict[str, int], until: dict[str, int]) -> SnapshotReply:
        async def whole() -> None: ...

        call = SnapshotCall(SnapshotPlace("entries", since=since, until=until), "z")
        return await read_page(store, {}, call, (0, 0), whole, others=[], most_rows=9)

    page = await asked({"a": 1}, {"a": 4, "b": 3})
    assert page.next == SnapshotPlace("entries", since={"a": 4, "b": 3}, until={"a": 4, "b": 3})
    dots = [encoded.entry.dot for encoded in entries_of(open_page(page))]
    assert dots == [("a", 2), ("b", 1), ("b", 2), ("b", 3), ("a", 3), ("a", 4)]
    page = await asked({"a": 1}, {"a": 3, "b": 2})  # more would be merged than the position says
    assert page.next == SnapshotPlace("entries", since={"a": 3, "b": 2}, until={"a": 3, "b": 2})
    dots = [encoded.entry.dot for encoded in entries_of(open_page(page))]
    assert dots == [("a", 2), ("b", 1), ("b", 2), ("a", 3)]
    assert (await asked({"a": 3, "b": 2}, {"a": 3, "b": 2})).next is None
    await store.truncate(2)
    assert (await asked({"a": 2, "b": 3}, {"a": 4, "b": 3})).next is not None
    assert (await asked({"a": 1, "b": 3}, {"a": 4, "b": 3})).next is None
    assert (await asked({"a": 4, "b": 2}, {"a": 4, "b": 3})).next is None
    assert (await asked({"a": 4, "b": 3}, {"a": 5, "b": 3})).next is None  # it has lost its last entry
