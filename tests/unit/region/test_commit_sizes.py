"""Group commits of large writes and entries: each is bounded, and all of them come to their end."""

from __future__ import annotations

import asyncio

from atoll.documents.entry import EncodedEntry
from atoll.documents.mutation import Receipt, Write, patch_of
from atoll.errors import Overloaded
from atoll.schema.bounds import COMMIT_BYTES

from ..commit.replica import Replica
from ..virtual_time import in_virtual_time
from .test_group_commit import NOW_MS, RULES, Setup, all_of, named, opened

SIZE = 900_000
ROOM = COMMIT_BYTES // SIZE


def large_entries(count: int) -> list[EncodedEntry]:
    replica = Replica("b", RULES)
    replica.time_ms = NOW_MS - 1000
    for n in range(count):
        replica.write(*named(f"b{n}", "x" * SIZE).mutations)
    return replica.journal


def sizes(it: Setup) -> list[int]:
    return [sum(len(each.body) for each in commit.segments) for commit in it.tables.seen]


@in_virtual_time
async def test_large_entries_of_peers_are_committed_in_pieces() -> None:
    it = await opened()
    it.intake.deliver(large_entries(2 * ROOM + 1), "b")
    await it.writes.write(named("a"))
    await it.progress.covered({"b": 2 * ROOM + 1})
    assert max(sizes(it)) < COMMIT_BYTES + 2 * SIZE
    assert not it.intake.inbox


@in_virtual_time
async def test_large_writes_are_committed_in_pieces_and_in_order() -> None:
    it = await opened()
    receipts = await all_of(it.writes, *(named(f"k{n}", "x" * SIZE) for n in range(2 * ROOM + 1)))
    assert [each.seq for each in receipts if isinstance(each, Receipt)] == list(range(1, 2 * ROOM + 2))
    assert max(sizes(it)) < COMMIT_BYTES + 2 * SIZE
    commits = len(it.tables.seen)
    await all_of(it.writes, *(named(f"k{n}") for n in range(100)))
    await all_of(it.writes, *(named(f"k{n}") for n in range(200)))
    assert len(it.tables.seen) <= commits + 12  # small ones share commits again


@in_virtual_time
async def test_small_changes_of_large_documents_count_what_they_rewrite() -> None:
    it = await opened()
    await all_of(it.writes, *(named(f"k{n}", "x" * SIZE) for n in range(2 * ROOM)))
    commits = len(it.tables.seen)
    aged = [Write((patch_of(RULES["profile"], f"k{n}", {"$set": {"age": 1}}),)) for n in range(2 * ROOM)]
    assert all(isinstance(each, Receipt) for each in await all_of(it.writes, *aged))
    assert len(it.tables.seen) >= commits + 2


@in_virtual_time
async def test_writes_that_were_put_back_are_refused_when_the_region_closes() -> None:
    it = await opened()
    tasks = [asyncio.create_task(it.writes.write(named(f"k{n}", "x" * SIZE))) for n in range(4 * ROOM)]
    await tasks[0]
    await it.group_commit.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in outcomes} == {Receipt, Overloaded}
