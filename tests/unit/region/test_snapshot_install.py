from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest

from atoll.causality.types import Seq, Stamp
from atoll.commit.snapshot_page import KEPT_ASIDE
from atoll.documents.entry import Change, Entry
from atoll.errors import CorruptEntry, HostileEntry, RegionUnreachable, Unavailable
from atoll.region.divergence import entry_digest
from atoll.replication import snapshot
from atoll.replication.messages import SnapshotCall, SnapshotPlace, SnapshotReply, StreamRequest
from atoll.rollout.redeclare import Redeclare
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import AuditFilter, Parked, Row

from ..virtual_time import in_virtual_time
from .world import World


class Cut(World):
    """A world in which journals are cut as soon as all have an entry, and absence is short."""

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(
            *names,
            journal_s=0.0,
            journal_round_s=1.0,
            journal_absent_s=30.0,
            snapshot_page_rows=100,
            **options,
        )

    async def stop(self, name: str) -> None:
        await self[name].stop()
        del self.regions[name]

    async def start(self, name: str, *, tables: MemoryTables | None = None) -> None:
        self.stores[name] = MemoryStore(tables)
        await self.create(name, founding=False).start()

    async def wiped(self, name: str) -> None:
        """Its disk is lost."""
        await self.stop(name)
        await self.start(name)

    async def told(self, name: str, text: str) -> None:
        """Wait until the region says so of its snapshot, or has taken it over."""
        here = self[name].snapshot_install
        async with asyncio.timeout(60):
            while text not in here.state.reason and not here.state.completed:  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.0005)

    def silenced(self, name: str) -> None:
        """It answers calls, and nobody hears its journal who asks for it from now on."""

        async def stream(request: StreamRequest) -> AsyncGenerator[bytes, None]:
            raise RegionUnreachable(f"{name} says nothing")
            yield b""  # makes this a generator

        self[name].__dict__["stream"] = stream

    def heard_again(self) -> None:
        for region in self.regions.values():
            region.stream = region.journal_sender.stream

    async def emptied(self, name: str, *, of: str, apart: Sequence[str]) -> dict[str, int]:
        """An empty region gets all pages of another's snapshot. They may show entries that only that one has: `apart`
        are the links that are cut before it writes them.

        Returns what the other one had then.
        """
        await self.wiped(name)
        await self.told(name, f"{of}: 1 pages")
        self.partition(*apart)
        for left in (8, 7):
            reply = await self.write(of, "stock", "later", {"left": left})
        for each in self.names:
            self.silenced(each)
        await self.told(name, "all of it")
        return reply.vector

    async def agreed(self) -> None:
        async with asyncio.timeout(120):
            await asyncio.sleep(1)
            while any(region.snapshot_install.pending for region in self.regions.values()):  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.1)
            await self.settled()
        first = next(iter(self.regions))
        for name, region in self.regions.items():
            for collection in self.application.collections:
                assert (await region.digests.of(collection)).digests == (
                    await self[first].digests.of(collection)
                ).digests, (name, collection)
            assert self.audit(name) == self.audit(first)

    def audit(self, name: str) -> dict[str, bytes]:
        rows = self.stores[name].tables.conflicts(AuditFilter(), limit=10_000)
        return {row.id: row.body for row in rows}


async def lived_in(it: World) -> None:
    """Documents, tombstones, counters, and conflicts that are open and that are resolved."""
    for n in range(300):
        await it.write("a", "note", f"k{n:03}", {"text": f"first {n}"})
        await it.write("b", "like", f"k{n % 7}", {"$inc": {"count": n}})
    await it.settled()
    await it.write("a", "note", "k001", None)
    await it.write("c", "stock", "s", {"left": 90})
    it.partition("ab", "ac", "bc")
    for key in ("k002", "k003"):
        for name in it.names:
            await it.write(name, "note", key, {"text": f"by {name}"})
    it.partition()
    await it.settled()
    await it.write("b", "note", "k003", {"text": "resolved"})
    await it.settled()


@in_virtual_time
async def test_an_empty_disk_is_filled_from_a_snapshot() -> None:
    async with Cut() as it:
        await lived_in(it)
        await asyncio.sleep(5)
        assert it.stores["a"].tables.journal_extent().after_id > 0
        own = it["c"].vector["c"]
        await it.wiped("c")
        await it.agreed()
        assert it["c"].snapshot_install.state.completed == 1
        assert len(it.audit("c")) == 4
        assert it.shown("c", "note", "k001") is None
        reply = await it.write("c", "note", "k005", {"text": "after"})
        assert (reply.receipt.seq, reply.vector["c"]) == (1, own)
        await it.agreed()


@in_virtual_time
async def test_a_region_that_was_away_for_too_long_loses_nothing_of_its_own() -> None:
    async with Cut() as it:
        await lived_in(it)
        it.partition("ac", "bc")
        await it.write("c", "note", "mine", {"text": "written alone"})
        await it.write("a", "note", "k002", {"text": "meanwhile"})
        await asyncio.sleep(60)
        for n in range(300):
            await it.write("a", "note", f"k{n:03}", {"text": f"second {n}"})
        await asyncio.sleep(5)
        it.partition()
        await it.agreed()
        assert it["c"].snapshot_install.state.completed == 1
        assert [it.shown(name, "note", "mine") for name in it.names] == [{"text": "written alone"}] * 3


@in_virtual_time
async def test_two_regions_that_gave_each_other_up_exchange_snapshots() -> None:
    async with Cut("a", "b") as it:
        it.partition("ab")
        for n in range(200):
            await it.write("a", "note", f"a{n}", {"text": "a"})
            await it.write("b", "note", f"b{n}", {"text": "b"})
            await it.write("b", "note", f"a{n}", {"text": "b too"})
        await asyncio.sleep(60)
        await it.write("a", "note", "last", {"text": "a"})
        await it.write("b", "note", "last", {"text": "b"})
        it.partition()
        await it.agreed()
        assert [it[name].snapshot_install.state.completed for name in it.names] == [1, 1]
        assert len(it.audit("a")) == 201


@in_virtual_time
async def test_nothing_is_read_or_written_before_the_snapshot_is_here() -> None:
    async with Cut() as it:
        await lived_in(it)
        await asyncio.sleep(5)
        await it.wiped("c")
        async with asyncio.timeout(30):
            while not it["c"].snapshot_install.pending:  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.01)
        refused = 0
        while it["c"].snapshot_install.pending:
            assert it["c"].health_of("ready") is not None
            assert "snapshot" in (it["c"].gates.closed or "")
            with pytest.raises(Unavailable, match="snapshot"):
                await it.write("c", "note", "k", {"text": "too early"})
            with pytest.raises(Unavailable, match="snapshot"):
                await it["c"].read("note", "k007")
            refused += 1
            await asyncio.sleep(0.0005)
        assert refused
        assert (await it["c"].read("note", "k007")).value is not None


@in_virtual_time
async def test_a_broken_connection_goes_on_where_it_was() -> None:
    async with Cut("a", "b") as it:
        await lived_in_by_two(it)
        await it.wiped("b")
        while "pages" not in it["b"].snapshot_install.state.reason:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.0005)
        it.partition("ab")
        await asyncio.sleep(20)
        asked = [call for _, _, call in it.calls if isinstance(call, SnapshotCall)]
        it.partition()
        await it.agreed()
        again = [call for _, _, call in it.calls if isinstance(call, SnapshotCall)][len(asked) :]
        assert SnapshotPlace() not in [call.place for call in again]
        assert it["b"].snapshot_install.state.completed == 1


@in_virtual_time
async def test_a_restart_goes_on_where_it_was() -> None:
    async with Cut("a", "b") as it:
        await lived_in_by_two(it)
        await it.wiped("b")
        for _ in range(3):
            await asyncio.sleep(1.05)
            tables = it.stores["b"].tables
            await it.stop("b")
            await it.start("b", tables=tables)
        await it.agreed()
        asked = [call.place for _, _, call in it.calls if isinstance(call, SnapshotCall)]
        assert asked.count(SnapshotPlace()) == 1


@in_virtual_time
async def test_a_peer_with_a_new_disk_is_asked_anew() -> None:
    async with Cut() as it:
        await lived_in(it)
        await asyncio.sleep(5)
        await it.wiped("c")
        while "pages" not in it["c"].snapshot_install.state.reason:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.0005)
        await it.wiped("a")
        await it.agreed()
        assert it.shown("c", "note", "k007") == {"text": "first 7"}


@in_virtual_time
async def test_damaged_and_impossible_pages_are_refused() -> None:
    async with Cut("a", "b") as it:
        await lived_in_by_two(it)
        page = await it["a"].snapshot_install.page(SnapshotCall(SnapshotPlace("documents", "note"), "b"))
        content = snapshot.open_page(page)
        snapshot.check_content(page, content, it["b"].rules, "b")
        with pytest.raises(CorruptEntry):
            snapshot.open_page(msgspec.structs.replace(page, content=page.content[:-9]))
        key, value, meta = content.documents[0]
        with pytest.raises(HostileEntry):  # stamped later than all that the peer has seen
            snapshot.check_content(msgspec.structs.replace(page, clock=1), content, it["b"].rules, "b")
        for documents in ([(key, b"[", meta)], [(key, value, b"no msgpack")], [("", value, meta)]):
            with pytest.raises(HostileEntry):
                snapshot.check_content(page, snapshot.Content("note", documents), it["b"].rules, "b")
        for collection in ("No Name", "batch", "_snapshot", "x" * 99):
            with pytest.raises(HostileEntry):
                snapshot.check_content(
                    page, snapshot.Content(collection, content.documents), it["b"].rules, "b"
                )
        with pytest.raises(HostileEntry):
            snapshot.check_content(page, snapshot.Content(resolved=[("x", b"{}")]), it["b"].rules, "b")


@in_virtual_time
async def test_pages_from_before_and_after_parked_changes_were_merged_are_of_two_snapshots() -> None:
    """Such a change lies in no document of the first page, and not among the parked ones of the second."""
    async with Cut("a", "b") as it:
        await lived_in_by_two(it)
        entry = Entry("b", Seq(1), Stamp(1), 0, {}, (Change("memo", "k", 0, {"": b"{}"}),))
        parked = Parked("b", 1, 0, "undeclared", "no collection", msgspec.msgpack.encode(entry))
        merge = Redeclare(parked=(parked,))
        here, store = it["a"], it.stores["a"]
        first = await here.snapshot_install.page(SnapshotCall(SnapshotPlace(), "b"))
        assert (
            await here.snapshot_install.page(SnapshotCall(SnapshotPlace("parked"), "b"))
        ).incarnation == first.incarnation
        await here.group_commit.commit(merge)
        assert (
            await here.snapshot_install.page(SnapshotCall(SnapshotPlace("parked"), "b"))
        ).incarnation != first.incarnation

        scan_all = store.scan_all

        async def merged_meanwhile(collection: str, **options: Any) -> list[tuple[str, Row]]:
            rows = await scan_all(collection, **options)
            await here.group_commit.commit(merge)
            return rows

        store.__dict__["scan_all"] = merged_meanwhile
        with pytest.raises(Unavailable, match="parked changes"):
            await here.snapshot_install.page(SnapshotCall(SnapshotPlace(), "b"))


async def with_all_pages(it: Cut) -> dict[str, int]:
    """Of a's snapshot, in c; b does not have a's last entries. Returns what a had then."""
    await lived_in(it)
    await asyncio.sleep(5)
    return await it.emptied("c", of="a", apart=("ab",))


@in_virtual_time
async def test_a_snapshot_ends_with_the_entries_that_its_pages_may_show() -> None:
    async with Cut() as it:
        later = await with_all_pages(it)
        it.partition("ab", "ac")
        await asyncio.sleep(1)
        assert it["c"].snapshot_install.state.completed == 1
        assert it["c"].vector["a"] == later["a"]
        assert (await it["c"].read("stock", "later")).value == b'{"left":7}'
        it.partition()
        it.heard_again()
        await it.agreed()


@in_virtual_time
async def test_what_only_pages_hold_comes_back_to_a_region_that_has_lost_it() -> None:
    async with Cut() as it:
        await with_all_pages(it)
        it.partition("ab", "ac")
        await it.wiped("a")
        it.heard_again()
        await asyncio.sleep(5)
        await it.write("a", "note", "anew", {"text": "under a new number"})
        it.partition()
        await it.agreed()
        assert [it.shown(name, "stock", "later") for name in it.names] == [{"left": 7}] * 3
        assert [it.shown(name, "note", "anew") for name in it.names] == [{"text": "under a new number"}] * 3


@in_virtual_time
async def test_a_peer_that_does_not_come_back_is_not_needed_any_more() -> None:
    async with Cut() as it:
        await with_all_pages(it)
        await it.stop("a")
        it.heard_again()
        await it.agreed()
        assert [it.shown(name, "stock", "later") for name in ("b", "c")] == [{"left": 7}] * 2


@in_virtual_time
async def test_pages_do_not_bring_back_what_their_region_counts_as_lost() -> None:
    """It hears what all others have, before the pages are installed, and then that no more of it is to come."""
    async with Cut(shares_store=True) as it:
        later = await with_all_pages(it)
        assert it["c"].snapshot_install.state.phase == "settling"
        await it.wiped("a")
        it.partition()
        it.heard_again()
        await it.agreed()
        ends = it["a"].lost.ends()
        assert ends["a"] < later["a"]
        assert [it[name].vector["a"] for name in it.names] == [ends["a"]] * 3
        assert [it.shown(name, "stock", "later") for name in it.names] == [None] * 3
        assert it.shown("c", "note", "k007") == {"text": "first 7"}


@in_virtual_time
async def test_what_a_snapshot_brought_outlives_its_peer() -> None:
    async with Cut("a", "b", "c", "d") as it:
        await lived_in(it)
        await asyncio.sleep(5)
        it.partition("ab", "ac", "ad")
        await it.write("b", "note", "adopted", {"text": "not in a"})
        await it.emptied("c", of="b", apart=("ab", "ac", "ad", "bd"))
        await it.wiped("b")
        it.heard_again()
        it.partition("ab", "ad")
        await it.agreed()
        assert [it.shown(name, "note", "adopted") for name in it.names] == [{"text": "not in a"}] * 4


@in_virtual_time
async def test_a_page_names_the_last_entry_of_the_present_incarnation() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {"text": "first"})
        await it.settled()
        await it["a"].stop()
        it.stores["a"] = MemoryStore()
        await it.create("a").start()
        await it.write("a", "note", "k", {"text": "second"})
        page = await it["a"].answer(SnapshotCall(SnapshotPlace(), "b"))
        assert isinstance(page, SnapshotReply)
        assert page.last == await entry_digest(it.stores["a"], it["a"].origin, 1)
        assert page.last is not None


@in_virtual_time
async def test_pages_have_a_table_before_any_snapshot_is_installed() -> None:
    """A round that another node had begun, or an earlier run, was kept aside without looking for the table."""
    async with World() as it:
        assert await it.stores["a"].get(KEPT_ASIDE, "1") is None


async def lived_in_by_two(it: World) -> None:
    for n in range(300):
        await it.write("a", "note", f"k{n:03}", {"text": f"first {n}"})
    await it.settled()
    await asyncio.sleep(5)


@in_virtual_time
async def test_a_node_that_cannot_know_whether_another_one_takes_a_snapshot_over_reads_nothing() -> None:
    async with World("a", "b", shares_store=True, lease_s=1.0) as it:
        await it.write("a", "note", "k", {"text": "first"})
        await asyncio.sleep(10)
        assert (await it["a"].reader.read_here("note", "k")).value is not None
        looking = next(task for task in it["a"]._tasks.values() if "catching up" in task.get_name())
        looking.cancel()  # as if the node were paused
        await asyncio.sleep(2.5)
        with pytest.raises(Unavailable, match="could not look at its database"):
            await it["a"].reader.read_here("note", "k")
