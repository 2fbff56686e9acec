"""What a region holds, read by pages of bounded size for a peer that lacks more than the journal has."""

from __future__ import annotations

import pytest

from atoll.causality.types import Stamp
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.replication.snapshot import Content, open_page, read_page
from atoll.schema.bounds import SEGMENT_BYTES
from atoll.store.memory.store import MemoryStore
from atoll.store.port import AuditRow, Commit, Parked, Row, Wanted

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
            store, {}, place, (0, 0), whole, others=["note", "other"], most_rows=most_rows
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
