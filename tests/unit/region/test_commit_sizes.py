"""Group commits of large writes and entries: each is bounded, and all of them come to their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll.commit.batch import Batch
from atoll.commit.recent import Recent
from atoll.commit.work import Wants
from atoll.documents.entry import EncodedEntry
from atoll.documents.mutation import Mutation, Receipt, Write, patch_of, put_of
from atoll.errors import Overloaded, TooLarge
from atoll.region import group_commit
from atoll.schema.bounds import COMMIT_BYTES
from atoll.store.port import View

from ..commit.replica import Replica, settle
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


class Loaded:
    """A companion that notes how much each transaction had loaded."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def want(self, wants: Wants) -> None:
        """Nothing."""

    def perform(self, batch: Batch, view: View) -> None:
        self.bytes.append(sum(row.size_bytes for row in view.rows.values()))


@in_virtual_time
async def test_what_is_loaded_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "LOADED_BYTES", 0)
    room = 35_000
    it = await opened()
    cart = put_of(RULES["cart"], "large", b'{"note":"%b","items":[],"labels":{}}' % (b"x" * 2 * room))
    keys = [f"k{n}" for n in range(20)]
    await all_of(it.writes, Write((cart,)), *(named(key, "x" * 10_000) for key in keys))
    it.group_commit._loaded_bytes = room
    loaded = Loaded()
    it.group_commit.accompany(loaded)
    replica = Replica("b", RULES)
    replica.time_ms = NOW_MS - 1000
    for key in keys:
        replica.write(*named(key).mutations)
    it.intake.deliver(replica.journal, "b")
    aged = [patch_of(RULES["profile"], key, {"$set": {"age": 1}}) for key in keys]
    receipts = await all_of(it.writes, *(Write((patch,)) for patch in aged))
    assert all(isinstance(each, Receipt) for each in receipts)
    await it.progress.covered({"b": len(keys)})
    assert 20_000 < max(loaded.bytes) <= room
    labelled = patch_of(RULES["cart"], "large", {"$set": {"labels.k": 1}})
    assert await it.writes.write(Write((labelled,)))  # one document alone, be it as large as it may
    with pytest.raises(TooLarge, match="hold more than 35000 bytes together"):
        await it.writes.write(Write((*aged[:2], labelled)))


@in_virtual_time
async def test_an_edit_of_a_text_that_was_kept_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[str] = []

    async def noted(work: Any, *args: Any) -> Any:
        beside.append(work.__name__)
        return work(*args)

    monkeypatch.setattr(group_commit, "beside_loop", noted)
    it = await opened()

    async def edit(*mutations: Mutation) -> bool:
        """Whether it was performed beside the event loop."""
        beside.clear()
        assert all(isinstance(each, Receipt) for each in await all_of(it.writes, Write(mutations)))
        return bool(beside)

    def appended(text: str) -> Mutation:
        return patch_of(RULES["note"], "k", {"$append": {"body": text}})

    assert await edit(put_of(RULES["note"], "k", b'{"body":"%s"}' % (b"x" * 100_000)))
    assert not await edit(appended("y"))
    assert not await edit(appended("y"), appended("z"))
    assert await edit(*(appended("y") for _ in range(40)))  # each may have it encoded
    it.group_commit._recent = Recent()
    assert await edit(appended("y"))


@in_virtual_time
async def test_many_small_documents_are_worked_on_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[str] = []

    async def noted(work: Any, *args: Any) -> Any:
        beside.append(work.__name__)
        return work(*args)

    monkeypatch.setattr(group_commit, "beside_loop", noted)
    it = await opened()
    replica = Replica("b", RULES)
    replica.time_ms = NOW_MS - 1000
    for at in range(0, 3000, 300):
        replica.write(*(each for n in range(at, at + 300) for each in named(f"b{n}").mutations))
    it.intake.deliver(replica.journal[:1], "b")
    await it.progress.covered({"b": 1})
    assert not beside
    it.intake.deliver(replica.journal[1:], "b")
    await it.progress.covered({"b": 10})
    assert beside


@in_virtual_time
async def test_a_text_that_was_emptied_meanwhile_is_worked_on_in_a_thread() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(put_of(RULES["note"], "k", b'{"body":"text"}'))
    settle([a, b])
    assert a.recent.quick(("note", "k"), a.rows["note", "k"])
    a.write(patch_of(RULES["note"], "k", {"$splice": {"body": {"at": 2, "remove": 0, "insert": "new"}}}))
    b.write(patch_of(RULES["note"], "k", {"$set": {"body": ""}}))
    settle([a, b])
    assert not a.recent.quick(("note", "k"), a.rows["note", "k"])
