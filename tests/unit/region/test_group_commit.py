from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.clock import HybridLogicalClock, pack
from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.commit.work import Noted, Wants
from atoll.documents.entry import Change, EncodedEntry, Entry, decode_frames, encode_frame
from atoll.documents.mutation import Receipt, Write, patch_of, put_of
from atoll.errors import (
    AtollError,
    ClockAhead,
    Indefinite,
    InvalidOperation,
    Overloaded,
    StoreUnwritable,
    Unavailable,
    VersionMismatch,
)
from atoll.region.group_commit import GroupCommit, GroupCommitOptions
from atoll.region.intake import Intake, IntakeOptions
from atoll.region.local_writes import LocalWrites
from atoll.region.progress import Progress
from atoll.region.timeline import Timeline
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Commit, Store, View

from ..commit.replica import REGIONS, Replica, rules_of
from ..commit.shop import SHOP
from ..virtual_time import in_virtual_time, turns

RULES = rules_of(SHOP)
NOW_MS = 1_000_000


class CountingTables(MemoryTables):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Commit] = []
        self.failure: BaseException | None = None
        self.open_collections(SHOP.collections)

    def commit(self, commit: Commit) -> None:
        if self.failure is not None:
            raise self.failure
        super().commit(commit)
        self.seen.append(commit)


def assembled(
    store: Store, now_ms: Callable[[], int], *, retry_s: float = 0.5, **options: Any
) -> tuple[Progress, GroupCommit, Intake]:
    """The parts of a region that commit, with options of either."""
    of_intake = {name: options.pop(name) for name in ("entries_per_commit", "stuck_s") if name in options}
    progress = Progress(store)
    group_commit = GroupCommit(
        store,
        RULES,
        HybridLogicalClock(now_ms),
        lambda: Identity("a", REGIONS, 5, 1 << 20),
        now_ms,
        progress=progress,
        timeline=Timeline(progress),
        options=GroupCommitOptions(retry_s=retry_s, **options),
    )
    intake = Intake(progress, group_commit.call, IntakeOptions(retry_s=retry_s, **of_intake))
    group_commit.supply(intake.take)
    return progress, group_commit, intake


class Setup:
    def __init__(self, **options: Any) -> None:
        self.tables = CountingTables()
        self.store = MemoryStore(self.tables)
        self.now_ms = NOW_MS
        self.progress, self.group_commit, self.intake = assembled(self.store, lambda: self.now_ms, **options)
        self.writes = LocalWrites(self.group_commit)

    def name_of(self, key: str) -> bytes | None:
        row = self.tables.get("profile", key)
        return None if row is None else row.value


async def opened(**options: Any) -> Setup:
    setup = Setup(**options)
    await setup.group_commit.open()
    return setup


def named(key: str, name: str = "Ann", **options: Any) -> Write:
    put = put_of(RULES["profile"], key, b'{"name":"%s"}' % name.encode(), **options)
    return Write((put,))


def viewed(key: str, times: int = 1, idempotency_key: str | None = None) -> Write:
    return Write((patch_of(RULES["views"], key, {"$inc": {"seen": times}}),), idempotency_key)


def entries_of(name: str, *keys: str) -> list[EncodedEntry]:
    replica = Replica(name, RULES)
    replica.time_ms = NOW_MS - 1000
    for key in keys:
        replica.write(*named(key, name).mutations)
    return replica.journal


def stamped(origin: str, seq: int, ms: int, key: str = "far") -> EncodedEntry:
    change = Change("profile", key, 0, {"": b'{"name":"F","age":0}'})
    entry = Entry(origin, seq, pack(ms), 5, {origin: seq - 1} if seq > 1 else {}, (change,))
    return next(decode_frames(encode_frame(entry)))


async def all_of(local: LocalWrites, *writes: Write) -> list[Receipt | BaseException]:
    return await asyncio.gather(*(local.write(write) for write in writes), return_exceptions=True)


@in_virtual_time
async def test_whoever_is_ready_shares_one_commit() -> None:
    it = await opened()
    receipts = await all_of(it.writes, *(named(f"k{n}") for n in range(50)))
    assert [receipt.seq for receipt in receipts if isinstance(receipt, Receipt)] == list(range(1, 51))
    assert len(it.tables.seen) == 1
    assert it.group_commit.progress.vector == {"a": 50}


@in_virtual_time
async def test_a_commit_is_bounded() -> None:
    it = await opened(works_per_commit=20)
    await all_of(it.writes, *(named(f"k{n}") for n in range(50)))
    assert [commit.positions["a"] for commit in it.tables.seen] == [20, 40, 50]


@in_virtual_time
async def test_remote_entries_share_the_commit_with_local_writes() -> None:
    it = await opened()
    it.intake.deliver(entries_of("b", "x", "y"), "b")
    await it.writes.write(named("z"))
    assert len(it.tables.seen) == 1
    assert it.group_commit.progress.vector == {"a": 1, "b": 2}


@in_virtual_time
async def test_a_refused_write_leaves_its_neighbours_alone() -> None:
    it = await opened()
    good, bad, after = await all_of(it.writes, named("k"), named("k", "No", if_match="other"), named("l"))
    assert isinstance(good, Receipt)
    assert isinstance(bad, VersionMismatch)
    assert isinstance(after, Receipt)
    assert it.group_commit.progress.vector == {"a": 2}
    assert it.name_of("k") == b'{"name":"Ann","age":0}'


@in_virtual_time
async def test_nothing_is_answered_before_it_is_durable() -> None:
    it = await opened()
    write = asyncio.ensure_future(it.writes.write(named("k")))
    heard: list[int] = []
    it.group_commit.listen(lambda batch: heard.append(len(it.tables.seen)))
    assert not write.done()
    await write
    assert heard == [1]


@in_virtual_time
async def test_a_full_disk_refuses_writes_and_spares_reads() -> None:
    it = await opened()
    await it.writes.write(named("k"))
    it.tables.refusal = "the disk is full"
    first, second = await all_of(it.writes, named("k", "New"), named("l"))
    assert isinstance(first, StoreUnwritable)
    assert isinstance(second, StoreUnwritable)
    assert it.group_commit.store_error is not None
    assert it.group_commit.progress.vector == {"a": 1}
    assert it.name_of("k") == b'{"name":"Ann","age":0}'


@in_virtual_time
async def test_writes_work_again_once_the_disk_has_room() -> None:
    it = await opened()
    it.tables.refusal = "the disk is full"
    await all_of(it.writes, named("k"))
    it.tables.refusal = ""
    receipt = await it.writes.write(named("k"))
    assert receipt.seq == 1  # the failed attempt left no gap
    assert it.group_commit.store_error is None


@in_virtual_time
async def test_remote_entries_wait_for_the_disk_to_have_room() -> None:
    it = await opened(retry_s=2.0)
    it.tables.refusal = "the disk is full"
    it.intake.deliver(entries_of("b", "x", "y"), "b")
    await asyncio.sleep(5)
    assert (it.group_commit.progress.vector, len(it.intake.inbox)) == ({}, 2)
    it.tables.refusal = ""
    await it.group_commit.progress.covered({"b": 2})
    assert it.name_of("y") == b'{"name":"b","age":0}'


@in_virtual_time
async def test_a_write_whose_fsync_failed_may_have_happened() -> None:
    it = await opened()
    it.tables.failure = Indefinite("the fsync failed")
    (answer,) = await all_of(it.writes, named("k"))
    assert isinstance(answer, Indefinite)
    assert it.group_commit.store_error is not None


@in_virtual_time
async def test_a_request_that_does_not_fit_fails_alone() -> None:
    """As of a peer with a newer schema."""
    it = await opened()
    unheard = msgspec_replace(named("k"), collection="unheard_of")
    answers = await all_of(it.writes, named("k"), unheard, named("l"))
    assert [type(answer) for answer in answers][::2] == [Receipt, Receipt]
    assert isinstance(answers[1], AtollError)


def msgspec_replace(write: Write, **changes: Any) -> Write:
    import msgspec

    return Write((msgspec.structs.replace(write.mutations[0], **changes),))


@in_virtual_time
async def test_an_entry_from_the_future_is_held_and_applied_in_time() -> None:
    it = await opened(retry_s=0.5)
    it.intake.deliver([stamped("b", 1, NOW_MS + 60_000)], "b")
    await asyncio.sleep(1)
    assert isinstance(it.intake.held, ClockAhead)
    assert it.group_commit.progress.vector == {}
    it.now_ms += 59_700
    await it.group_commit.progress.covered({"b": 1})
    await turns()
    assert it.intake.held is None


@in_virtual_time
async def test_an_entry_from_the_future_holds_nobody_else_back() -> None:
    it = await opened(retry_s=0.5, entries_per_commit=4)
    it.intake.deliver([stamped("b", seq, NOW_MS + 10**12) for seq in range(1, 10)], "b")
    it.intake.deliver(entries_of("c", *(f"k{n}" for n in range(9))), "c")
    async with asyncio.timeout(1.0):
        await it.group_commit.progress.covered({"c": 9})
    assert it.intake.held is not None
    assert it.group_commit.progress.vector == {"c": 9}


@in_virtual_time
async def test_a_held_entry_comes_in_order_with_those_behind_it() -> None:
    it = await opened(retry_s=0.5)
    it.intake.deliver([stamped("b", 1, NOW_MS + 60_000), stamped("b", 2, NOW_MS, "near")], "b")
    await asyncio.sleep(2)
    assert it.name_of("near") is None
    it.now_ms += 60_000
    await it.group_commit.progress.covered({"b": 2})
    assert it.name_of("near") is not None


@in_virtual_time
async def test_too_many_waiting_writes_are_refused() -> None:
    it = await opened(queued_works=3)
    answers = await all_of(it.writes, *(named(f"k{n}") for n in range(5)))
    assert [type(answer) for answer in answers] == [Receipt] * 3 + [Overloaded] * 2


@in_virtual_time
async def test_a_write_that_was_given_up_is_not_committed() -> None:
    it = await opened()
    given_up = asyncio.ensure_future(it.writes.write(named("k", "Given up")))
    await asyncio.sleep(0)
    given_up.cancel()
    await it.writes.write(named("l"))
    assert it.name_of("k") is None
    assert it.group_commit.progress.vector == {"a": 1}


@in_virtual_time
async def test_a_retried_write_counts_once() -> None:
    it = await opened()
    first = await it.writes.write(viewed("page", idempotency_key="once"))
    again, together = await all_of(
        it.writes, viewed("page", idempotency_key="once"), viewed("page", idempotency_key="once")
    )
    assert isinstance(again, Receipt)
    assert isinstance(together, Receipt)
    assert (first.replayed, again.replayed, together.replayed) == (False, True, True)
    row = it.tables.get("views", "page")
    assert row is not None
    assert row.value == b'{"seen":1}'


@in_virtual_time
async def test_a_retry_within_one_commit_counts_once() -> None:
    it = await opened()
    await all_of(it.writes, *[viewed("page", idempotency_key="once")] * 3)
    row = it.tables.get("views", "page")
    assert row is not None
    assert row.value == b'{"seen":1}'


@in_virtual_time
async def test_a_failed_commit_does_not_count_as_done() -> None:
    it = await opened()
    it.tables.refusal = "the disk is full"
    await all_of(it.writes, viewed("page", idempotency_key="once"))
    it.tables.refusal = ""
    assert not (await it.writes.write(viewed("page", idempotency_key="once"))).replayed


@in_virtual_time
async def test_whoever_waits_for_a_position_is_told() -> None:
    it = await opened()
    waiting = asyncio.ensure_future(it.group_commit.progress.covered({"b": 2}))
    one, two = entries_of("b", "x", "y")
    it.intake.deliver([two], "b")
    await turns()
    assert not waiting.done()
    it.intake.deliver([one], "b")
    await waiting
    assert it.group_commit.progress.vector == {"b": 2}


@in_virtual_time
async def test_a_link_that_brings_too_much_waits() -> None:
    it = await opened(retry_s=1.0)
    it.tables.refusal = "the disk is full"
    it.intake.deliver(entries_of("b", "x", "y"), "b")
    await turns()
    backpressure = asyncio.ensure_future(it.intake.backpressure("b", 10))
    other = asyncio.ensure_future(it.intake.backpressure("c", 10))
    await turns()
    assert (backpressure.done(), other.done()) == (False, True)
    it.tables.refusal = ""
    await backpressure


@in_virtual_time
async def test_closing_answers_everyone() -> None:
    it = await opened()
    waiting = asyncio.ensure_future(it.writes.write(named("k")))
    await asyncio.sleep(0)
    await it.group_commit.close()
    with pytest.raises(Overloaded, match="closing"):
        await waiting
    with pytest.raises(Overloaded, match="closing"):
        await it.writes.write(named("k"))
    assert it.tables.seen == []


@in_virtual_time
async def test_an_empty_change_takes_no_place_in_the_journal() -> None:
    it = await opened()
    receipt = await it.writes.write(viewed("page", 0))
    again = await it.writes.write(Write((patch_of(RULES["cart"], "c", {"$set": {"note": ""}}),)))
    assert (receipt.seq, again.seq) == (1, 2)
    assert (await it.writes.write(viewed("page", 0))).seq == 0


@given(st.lists(st.sampled_from("wdgf"), max_size=30))
def test_the_journal_is_dense_whatever_fails(steps: list[str]) -> None:
    @in_virtual_time
    async def scenario() -> None:
        it = await opened()
        acknowledged = 0
        for number, step in enumerate(steps):
            it.tables.refusal = "full" if step == "f" else ""
            write = named("k", f"n{number}", if_match="never" if step == "g" else None)
            (answer,) = await all_of(it.writes, write)
            acknowledged += isinstance(answer, Receipt)
        journal = [f.entry.seq for n in it.tables.journal(0, limit=99) for f in decode_frames(n.segment.body)]
        assert journal == list(range(1, acknowledged + 1))

    scenario()


@in_virtual_time
async def test_a_listener_sees_commits_in_order() -> None:
    it = await opened(works_per_commit=1)
    seen: list[int] = []

    def listener(batch: Batch) -> None:
        seen.extend(entry.seq for entry in batch.written)

    it.group_commit.listen(listener)
    await all_of(it.writes, *(named(f"k{n}") for n in range(4)))
    assert seen == [1, 2, 3, 4]


@in_virtual_time
async def test_an_operation_on_the_wrong_field_is_refused_before_it_waits() -> None:
    with pytest.raises(InvalidOperation):
        patch_of(RULES["cart"], "c", {"$inc": {"items": 1}})


class Stepping:
    """A step of a kind that the group commit has never heard of."""

    def __init__(self, key: str, error: Exception | None = None) -> None:
        self.key = key
        self.error = error
        self.performed = 0

    def want(self, wants: Wants) -> None:
        wants.document("profile", self.key)

    def perform(self, batch: Batch, view: View) -> None:
        self.performed += 1
        batch.write(named(self.key))
        if self.error is not None:
            raise self.error


@in_virtual_time
async def test_a_step_of_any_kind_shares_the_commit() -> None:
    it = await opened()
    step = Stepping("stepped")
    done = asyncio.ensure_future(it.group_commit.commit(step))
    await it.writes.write(named("k"))
    await done
    assert (len(it.tables.seen), step.performed) == (1, 1)
    assert it.name_of("stepped") == b'{"name":"Ann","age":0}'


@pytest.mark.parametrize("error", [Unavailable("not now"), ZeroDivisionError()])
def test_a_step_that_cannot_be_performed_leaves_no_trace(error: Exception) -> None:
    @in_virtual_time
    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        it = await opened()
        failing = asyncio.ensure_future(it.group_commit.commit(Stepping("stepped", error)))
        receipt = await it.writes.write(named("k"))
        with pytest.raises(AtollError, match="not now" if isinstance(error, AtollError) else "unexpectedly"):
            await failing
        assert (receipt.seq, it.name_of("stepped")) == (1, None)
        assert it.group_commit.store_error is None

    scenario()


@in_virtual_time
async def test_nothing_to_commit_is_not_committed() -> None:
    it = await opened()
    companion = Stepping("beside")
    it.group_commit.accompany(companion)
    await all_of(it.writes, named("k", if_match="another"))
    assert (it.tables.seen, companion.performed) == ([], 0)
    await it.writes.write(named("k"))
    assert (len(it.tables.seen), companion.performed) == (1, 1)


def test_gates_are_asked_on_the_event_loop_where_a_thread_performs_the_group() -> None:
    threads: dict[str, int] = {}

    def gate(view: View) -> None:
        threads["gate"] = threading.get_ident()
        asyncio.get_running_loop()
        if view.positions:
            raise Unavailable("closed by now")

    def admit(write: Write, stored: object) -> None:
        threads["performed"] = threading.get_ident()

    async def run() -> list[Receipt | BaseException]:
        it = await opened()
        it.writes = LocalWrites(it.group_commit, (gate,), admit)
        large = [named(key, "x" * 1_000_000) for key in "klm"]
        return [*await all_of(it.writes, *large), *await all_of(it.writes, named("n"))]

    *large, refused = asyncio.run(run())
    assert [type(each) for each in large] == [Receipt] * 3
    assert isinstance(refused, Unavailable)
    assert threads["gate"] == threading.get_ident() != threads["performed"]


@in_virtual_time
async def test_what_a_step_brings_is_noted_within_its_transaction() -> None:
    it = await opened()
    await it.group_commit.commit(Noted(Stepping("brought"), pack(NOW_MS + 400)))
    (receipt,) = await all_of(it.writes, named("k"))
    assert isinstance(receipt, Receipt)
    assert receipt.stamp > pack(NOW_MS + 400)
    assert it.tables.seen[0].clock == pack(NOW_MS + 400) + 1  # of what the step wrote
    with pytest.raises(ClockAhead):
        await it.group_commit.commit(Noted(Stepping("too far"), pack(NOW_MS + 501)))
    assert it.name_of("too far") is None
