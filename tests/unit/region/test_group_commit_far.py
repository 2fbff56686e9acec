"""The group commit over a database behind a network, which other nodes of the region use as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from atoll.commit.batch import Batch
from atoll.commit.snapshot_page import KEPT_ASIDE, RECORD, ShowRecord, SnapshotPage, check_merged
from atoll.commit.work import Fence, Wants
from atoll.documents.mutation import Receipt, Write
from atoll.errors import (
    AtollError,
    FenceLost,
    Indefinite,
    Overloaded,
    OwnershipFixed,
    SerializationConflict,
    StoreUnreachable,
    Unavailable,
)
from atoll.recovery.snapshot_record import KeepPages, LetGo, MergePage, MoveRecord, Record
from atoll.region.local_writes import LocalWrites
from atoll.rollout.redeclare import MarkMixed, Redeclare
from atoll.store.memory.store import MemoryStore, MemoryTransaction
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Commit, View, Wanted

from ..commit.shop import SHOP
from ..virtual_time import in_virtual_time, turns
from .test_group_commit import NOW_MS, all_of, assembled, entries_of, named, stamped

TRIP_S = 0.1


class FarTransaction(MemoryTransaction):
    def __init__(self, store: FarStore, wanted: Wanted) -> None:
        super().__init__(store.tables, wanted, store)
        self._store = store

    async def __aenter__(self) -> FarTransaction:
        await asyncio.sleep(TRIP_S)
        await super().__aenter__()
        return self

    async def commit(self, commit: Commit) -> None:
        store = self._store
        await asyncio.sleep(TRIP_S)
        store.meanwhile()
        if store.lost_requests:
            store.lost_requests -= 1
            raise Indefinite("the connection broke")
        await super().commit(commit)
        store.seen.append(commit)
        await asyncio.sleep(TRIP_S)
        if store.lost_replies:
            store.lost_replies -= 1
            raise Indefinite("the connection broke")


class FarStore(MemoryStore):
    """A commit arrives after 0.2 s, and is known of after 0.3 s."""

    def __init__(self, tables: MemoryTables) -> None:
        super().__init__(tables)
        self.seen: list[Commit] = []
        self.lost_requests = 0
        self.lost_replies = 0
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens before a commit arrives."""

    def begin(self, wanted: Wanted) -> FarTransaction:
        return FarTransaction(self, wanted)


class Setup:
    def __init__(self, tables: MemoryTables | None = None, admit: Any = None, **options: Any) -> None:
        self.tables = tables or MemoryTables()
        self.tables.open_collections(SHOP.collections)
        self.store = FarStore(self.tables)
        self.progress, self.group_commit, self.intake = assembled(self.store, lambda: NOW_MS, **options)
        self.writes = LocalWrites(self.group_commit, (check_merged,), admit)
        self.group_commit.accompany(ShowRecord())

    @property
    def journal(self) -> list[tuple[str, int, int]]:
        return [each.segment[:3] for each in self.tables.journal(0, limit=99)]


async def opened(tables: MemoryTables | None = None, **options: Any) -> Setup:
    setup = Setup(tables, **options)
    await setup.group_commit.open()
    return setup


@in_virtual_time
async def test_whoever_comes_during_a_commit_shares_the_next() -> None:
    it = await opened()
    first = asyncio.ensure_future(it.writes.write(named("k0")))
    await asyncio.sleep(TRIP_S)
    await all_of(it.writes, *(named(f"k{n}") for n in range(1, 9)))
    assert (await first).seq == 1
    assert it.journal == [("a", 1, 1), ("a", 2, 9)]


@in_virtual_time
async def test_a_group_commit_that_is_opened_again_runs_one_transaction_at_a_time() -> None:
    it = await opened()
    await it.group_commit.open()
    tried: list[None] = []
    it.store.meanwhile = lambda: tried.append(None)
    first = asyncio.ensure_future(it.writes.write(named("k0")))
    await asyncio.sleep(TRIP_S / 2)
    await all_of(it.writes, named("k1"))
    await first
    assert (len(tried), it.journal) == (2, [("a", 1, 1), ("a", 2, 2)])


@in_virtual_time
async def test_no_commit_says_the_opposite_of_declarations_that_were_just_taken_up() -> None:
    it = await opened()
    it.group_commit.accompany(MarkMixed({"note": "new"}))
    taken_up = asyncio.ensure_future(it.group_commit.commit(Redeclare(schemas={"note": "new"})))
    await asyncio.sleep(TRIP_S)
    await it.writes.write(named("k"))
    await taken_up
    assert it.tables.schemas() == {"note": "new"}


@in_virtual_time
async def test_a_commit_by_other_declarations_says_that_documents_are_mixed() -> None:
    it = await opened()
    it.group_commit.accompany(MarkMixed({"note": "old"}))
    it.tables.commit(Commit(schemas={"note": "new", "profile": "new"}))
    await it.writes.write(named("k"))
    assert it.tables.schemas() == {"note": "", "profile": ""}
    it = await opened(it.tables)
    it.group_commit.accompany(MarkMixed({"note": "new", "profile": "new"}))
    it.tables.commit(Commit(schemas={"note": "new", "profile": "new?on its way"}))
    await it.writes.write(named("k"))
    assert it.tables.schemas() == {"note": "new", "profile": "new?on its way"}


@in_virtual_time
async def test_declarations_are_not_taken_up_where_a_node_with_others_wrote_meanwhile() -> None:
    it = await opened()
    other = await opened(it.tables)
    it.group_commit.accompany(MarkMixed({"note": "new"}))
    other.group_commit.accompany(MarkMixed({"note": "old"}))
    await it.group_commit.commit(Redeclare(schemas={"note": "new?1"}))
    await other.writes.write(named("k"))
    await it.group_commit.commit(Redeclare(schemas={"note": "new"}, instead_of={"note": "new?1"}))
    assert it.tables.schemas() == {"note": ""}
    await it.group_commit.commit(Redeclare(schemas={"note": "new?2"}))
    await it.group_commit.commit(Redeclare(schemas={"note": "new"}, instead_of={"note": "new?2"}))
    assert it.tables.schemas() == {"note": "new"}


@in_virtual_time
async def test_nothing_is_shown_or_answered_before_its_commit_is_known() -> None:
    it = await opened()
    write = asyncio.ensure_future(it.writes.write(named("k")))
    await asyncio.sleep(2.5 * TRIP_S)
    assert (len(it.store.seen), write.done(), it.group_commit.progress.vector) == (1, False, {})
    assert (await write).seq == 1
    assert it.group_commit.progress.vector == {"a": 1}


@in_virtual_time
async def test_two_nodes_make_one_dense_sequence() -> None:
    it = await opened()
    other = await opened(it.tables)
    for number in range(5):
        answers = await asyncio.gather(
            all_of(it.writes, *(named(f"k{number}-{n}") for n in range(3))),
            all_of(other.writes, *(named(f"l{number}-{n}") for n in range(3))),
        )
        assert all(isinstance(answer, Receipt) for both in answers for answer in both)
    ends = [0, *(last for _, _, last in it.journal)]
    assert [first for _, first, _ in it.journal] == [end + 1 for end in ends[:-1]]
    assert ends[-1] == 30


@in_virtual_time
async def test_no_node_writes_while_another_one_installs_a_snapshot() -> None:
    it = await opened()
    unaware = await opened(it.tables)
    pulling = Record().next_round()
    await it.group_commit.commit(MoveRecord(Record(), pulling))
    await it.group_commit.commit(MoveRecord(pulling, pulling.moved("installing"), {"b": 3}))
    with pytest.raises(Unavailable, match="snapshot"):
        await unaware.writes.write(named("k"))
    unaware.intake.deliver([stamped("b", 4, NOW_MS - 1000)], "b")
    await unaware.group_commit.progress.covered({"b": 4})
    await it.group_commit.commit(MoveRecord(pulling.moved("installing"), pulling.moved("done")))
    assert (await unaware.writes.write(named("k"))).seq == 1


@in_virtual_time
async def test_a_round_that_another_node_has_ended_is_not_opened_anew() -> None:
    """Found by seed 502365: a node that was paused installed it once more, and no node took writes any more."""
    it = await opened()
    paused = await opened(it.tables)
    pulling = Record().next_round()
    installing, done = pulling.moved("installing"), pulling.moved("done")
    await it.group_commit.commit(MoveRecord(Record(), pulling))
    await it.group_commit.commit(MoveRecord(pulling, installing, {"b": 3}))
    await it.group_commit.commit(MoveRecord(installing, done))
    for late in (
        MoveRecord(Record(), pulling),
        MoveRecord(pulling, installing, {"b": 3}),
        MoveRecord(installing, done),
        KeepPages(pulling, pulling.stepped(), (("00000001", b"page"),)),
        MergePage(installing, {"b": 3}, SnapshotPage()),
    ):
        with pytest.raises(Unavailable, match="the snapshot is at"):
            await paused.group_commit.commit(late)
    assert (await paused.writes.write(named("k"))).seq == 1


@in_virtual_time
async def test_a_page_is_kept_and_merged_only_behind_those_before_it() -> None:
    """Found by seed 795937603: a failover had lost the first pages, and the later ones were taken for all."""
    it = await opened()
    pulling = Record().next_round()
    await it.group_commit.commit(MoveRecord(Record(), pulling))
    it.tables.open_collections([KEPT_ASIDE])
    standby = it.tables.copied()
    kept = pulling.stepped({"b": 3})
    await it.group_commit.commit(KeepPages(pulling, kept, (("00000001", b"page"),)))
    it.tables.fail_over(standby, "another")
    for late in (
        KeepPages(kept, kept.stepped(), (("00000002", b"page"),)),
        MoveRecord(kept, kept.moved("installing"), {"b": 3}),
    ):
        with pytest.raises(Unavailable, match="the snapshot is at"):
            await it.group_commit.commit(late)
    installing = pulling.moved("installing")
    await it.group_commit.commit(MoveRecord(pulling, installing, {"b": 3}))
    with pytest.raises(Unavailable, match="the snapshot is at"):
        await it.group_commit.commit(MergePage(installing.stepped(), {"b": 3}, SnapshotPage()))


@in_virtual_time
async def test_a_page_is_merged_only_once_its_entries_are_here() -> None:
    it = await opened()
    installing = Record().next_round().moved("installing")
    await it.group_commit.commit(MoveRecord(Record(), installing, {"b": 3}))
    with pytest.raises(Unavailable):
        await it.group_commit.commit(MergePage(installing, {"b": 4}, SnapshotPage()))
    await it.group_commit.commit(MergePage(installing, {"b": 3}, SnapshotPage()))


@in_virtual_time
async def test_pages_of_what_a_region_has_lost_are_given_up_before_it_hears_what_is_here() -> None:
    it = await opened()
    it.tables.open_collections([KEPT_ASIDE])
    pulling = Record().next_round()
    shown = pulling.stepped({"b": 3, "c": 2})
    await it.group_commit.commit(MoveRecord(Record(), pulling))
    await it.group_commit.commit(KeepPages(pulling, shown, (("00000001", b"page"),)))

    async def after(*asked: LetGo) -> Record:
        for each in asked:
            await it.group_commit.commit(each)
        return Record.of(it.tables.state(*RECORD))

    assert await after(LetGo("b", {"b": 3}, anew=False), LetGo("c", {"c": 9}, anew=False)) == shown
    on_its_way = LetGo("b", {"b": 3, "b~1": 1}, anew=True)  # a page may be
    assert await after(on_its_way) == shown.stepped()
    assert await after(LetGo("b", {"b": 2, "c": 2}, anew=True)) == shown.stepped().next_round()
    installing = shown.stepped().next_round().moved("installing")
    await it.group_commit.commit(MoveRecord(shown.stepped().next_round(), installing, {"b": 3}))
    assert await after(LetGo("b", {}, anew=True)) == installing


@in_virtual_time
async def test_stamps_rise_from_node_to_node() -> None:
    it = await opened()
    await it.writes.write(named("k"))
    other = await opened(it.tables)
    ahead = await it.writes.write(named("k"))
    assert (await other.writes.write(named("k"))).stamp > ahead.stamp


@in_virtual_time
async def test_a_write_counts_once_however_often_its_transaction_is_lost() -> None:
    it = await opened()
    lost = iter(range(3))

    def meanwhile() -> None:
        if (number := next(lost, None)) is not None:
            it.tables.commit(Commit(positions={"b": number + 1}))

    it.store.meanwhile = meanwhile
    assert (await it.writes.write(named("k"))).seq == 1
    assert it.journal == [("a", 1, 1)]
    assert it.group_commit.progress.vector == {"a": 1, "b": 3}


@in_virtual_time
async def test_writers_are_told_when_every_transaction_is_lost() -> None:
    it = await opened()
    it.store.meanwhile = lambda: it.tables.commit(Commit())
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, SerializationConflict)
    it.store.meanwhile = lambda: None
    assert (await it.writes.write(named("k"))).seq == 1


@in_virtual_time
async def test_a_commit_in_doubt_that_happened_is_found_by_itself() -> None:
    it = await opened(retry_s=1.0)
    moved: list[dict[str, int]] = []
    it.progress.follow(lambda before, vector: moved.append(vector))
    it.store.lost_replies = 1
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, Indefinite)
    assert it.group_commit.store_error is answer
    await asyncio.sleep(2)
    assert moved == [{"a": 1}]
    assert (await it.writes.write(named("l"))).seq == 2
    assert it.group_commit.store_error is None


@in_virtual_time
async def test_a_commit_in_doubt_that_did_not_happen_leaves_no_gap() -> None:
    it = await opened()
    it.store.lost_requests = 1
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, Indefinite)
    assert (await it.writes.write(named("l"))).seq == 1


@in_virtual_time
async def test_entries_of_a_commit_in_doubt_are_applied_once() -> None:
    it = await opened(retry_s=1.0)
    it.store.lost_replies = 1
    it.intake.deliver(entries_of("b", "x", "y"), "b")
    await it.group_commit.progress.covered({"b": 2})
    await it.writes.write(named("k"))
    assert it.journal == [("b", 1, 2), ("a", 1, 1)]
    assert (len(it.intake.inbox), it.intake.inbox.size_bytes) == (0, 0)


@in_virtual_time
async def test_what_comes_again_while_it_is_committed_does_not_stay() -> None:
    it = await opened()
    entries = entries_of("b", "x", "y")
    it.intake.deliver(entries, "b")
    await asyncio.sleep(1.5 * TRIP_S)
    it.intake.deliver(entries, "c")
    await it.group_commit.progress.covered({"b": 2})
    assert (len(it.intake.inbox), it.intake.inbox.size_bytes) == (0, 0)


@in_virtual_time
async def test_what_another_node_applied_leaves_the_inbox() -> None:
    it = await opened()
    other = await opened(it.tables)
    first, second, third = entries_of("b", "x", "y", "z")
    it.intake.deliver([second], "b")
    other.intake.deliver([first, second], "b")
    await other.group_commit.progress.covered({"b": 2})
    await it.group_commit.progress.refresh()
    assert len(it.intake.inbox) == 0
    it.intake.deliver([third], "b")
    await it.group_commit.progress.covered({"b": 3})


@in_virtual_time
async def test_what_waited_for_another_nodes_commit_is_applied() -> None:
    it = await opened()
    other = await opened(it.tables)
    cause, effect = entries_of("b", "x", "y")
    it.intake.deliver([effect], "c")
    await asyncio.sleep(1)
    assert (len(it.intake.inbox), it.journal) == (1, [])
    other.intake.deliver([cause], "b")
    await asyncio.sleep(1)
    assert it.journal == [("b", 1, 1), ("b", 2, 2)]
    assert it.group_commit.progress.vector == {"b": 2}


@in_virtual_time
async def test_whoever_waits_for_a_position_need_not_wait_for_this_node() -> None:
    it = await opened()
    other = await opened(it.tables)
    await other.writes.write(named("k"))
    await it.group_commit.progress.covered({"a": 1})
    assert it.group_commit.progress.vector == {"a": 1}


@in_virtual_time
async def test_closing_lets_a_commit_end() -> None:
    it = await opened()
    write = asyncio.ensure_future(it.writes.write(named("k")))
    await asyncio.sleep(TRIP_S)
    waiting = asyncio.ensure_future(it.writes.write(named("l")))
    await turns()
    await it.group_commit.close()
    assert (await write).seq == 1
    with pytest.raises(Overloaded, match="closing"):
        await waiting
    assert it.journal == [("a", 1, 1)]


@pytest.mark.parametrize(
    ("after_s", "error"), [(0.5 * TRIP_S, Overloaded), (1.5 * TRIP_S, Indefinite), (2.5 * TRIP_S, Indefinite)]
)
def test_a_commit_that_is_cut_may_have_happened(after_s: float, error: type[AtollError]) -> None:
    @in_virtual_time
    async def scenario() -> None:
        it = await opened(closing_s=0.0)
        write = asyncio.ensure_future(it.writes.write(named("k")))
        await asyncio.sleep(after_s)
        await it.group_commit.close()
        with pytest.raises(error):
            await write

    scenario()


@in_virtual_time
async def test_a_database_that_lost_commits_is_noticed_before_a_seq_is_used_again() -> None:
    it = await opened()
    await all_of(it.writes, *(named(f"k{n}") for n in range(3)))
    older = MemoryTables()
    older.open_collections(SHOP.collections)
    older.commit(Commit(positions={"a": 2}))
    it.store.tables = older
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, StoreUnreachable)
    assert older.journal(0) == []
    assert it.group_commit.progress.vector == {"a": 2}


@in_virtual_time
async def test_a_database_out_of_reach_fails_writers_and_keeps_entries() -> None:
    it = await opened(retry_s=1.0)

    def unreachable() -> None:
        raise StoreUnreachable("no route to it")

    it.store.meanwhile = unreachable
    it.intake.deliver(entries_of("b", "x"), "b")
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, StoreUnreachable)
    it.store.meanwhile = lambda: None
    await it.group_commit.progress.covered({"b": 1})
    assert it.group_commit.store_error is None


@in_virtual_time
async def test_a_write_is_admitted_on_what_is_there_at_its_turn() -> None:
    seen: list[bytes | None] = []

    def admit(write: Write, stored: Callable[[tuple[str, str]], Any]) -> None:
        row = stored(("profile", write.mutations[0].key))
        seen.append(None if row is None else row.value)
        if row is not None:
            raise OwnershipFixed("there is one already")

    it = await opened(admit=admit)
    first, second = await all_of(it.writes, named("k"), named("k", "Bob"))
    assert isinstance(first, Receipt)
    assert isinstance(second, OwnershipFixed)
    assert seen == [None, b'{"name":"Ann","age":0}']


@in_virtual_time
async def test_a_listener_hears_of_this_nodes_commits_alone() -> None:
    it = await opened()
    other = await opened(it.tables)
    heard: list[Batch] = []
    it.group_commit.listen(heard.append)
    await other.writes.write(named("k"))
    await it.group_commit.progress.refresh()
    assert (heard, it.group_commit.progress.vector) == ([], {"a": 1})


@in_virtual_time
async def test_an_entry_from_the_future_is_held_once_when_turns_are_lost() -> None:
    it = await opened(retry_s=0.5)
    lost = iter(range(2))
    it.store.meanwhile = lambda: it.tables.commit(Commit()) if next(lost, None) is not None else None
    it.intake.deliver([stamped("b", 1, NOW_MS + 60_000)], "b")
    await it.writes.write(named("k"))
    assert it.intake.held is not None
    assert len(it.intake.inbox) == 1


class Fenced:
    """A step that must not be committed once its lease is lost."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence

    def want(self, wants: Wants) -> None:
        self.fence.want(wants)
        wants.states.append(("test", "k"))

    def perform(self, batch: Batch, view: View) -> None:
        self.fence.hold(batch, view)
        batch.pending.states["test", "k"] = view.states.get(("test", "k"), b"") + b"x"


@in_virtual_time
async def test_a_step_of_a_paused_lease_holder_is_left_out() -> None:
    it = await opened()
    other = await opened(it.tables)
    generation = (await it.store.lease(["pages"], 1))["pages"]
    fenced = Fenced(Fence("pages", generation))
    await it.group_commit.commit(fenced)
    assert it.tables.state("test", "k") == b"x"
    await asyncio.sleep(2)
    step = asyncio.ensure_future(it.group_commit.commit(fenced))
    write = asyncio.ensure_future(it.writes.write(named("k")))
    await asyncio.sleep(1.5 * TRIP_S)  # the transaction has begun
    assert await other.store.lease(["pages"], 1) == {"pages": generation + 1}
    with pytest.raises(FenceLost):
        await step
    assert (await write).seq == 1
    assert it.tables.state("test", "k") == b"x"
