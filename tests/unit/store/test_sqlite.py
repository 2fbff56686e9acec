from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.unit.store.conformance import StoreConformance, commit, load, put
from tests.unit.store.faulty_disk import FaultyDisk

from atoll.errors import ConfigError, Indefinite, StoreCorrupt, StoreLocked, StoreUnwritable
from atoll.store.memory.store import MemoryStore
from atoll.store.port import Commit, Condition, Row, Segment, Shape, Store, Wanted
from atoll.store.scanning import condition_sql
from atoll.store.sqlite import database as sqlite_database
from atoll.store.sqlite.database import DATABASE_FILE, WAL_KEPT_BYTES
from atoll.store.sqlite.store import SqliteStore, open_sqlite


class SqliteHarness:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = FaultyDisk()

    def open(self) -> SqliteStore:
        return open_sqlite(self.folder, region="tokyo", deployment="shop", vfs=self.disk.vfs_name)

    async def refuse_writes(self, store: Store) -> None:
        self.disk.full = True

    async def accept_writes(self, store: Store) -> None:
        self.disk.full = False


@pytest.fixture
def harness(tmp_path: Path) -> SqliteHarness:
    return SqliteHarness(tmp_path / "data" / "tokyo")


@pytest.fixture
async def store(harness: SqliteHarness) -> AsyncIterator[SqliteStore]:
    store = harness.open()
    await store.open_collections(["note"])
    yield store
    await store.close()


def open_tokyo(folder: Path, *, read_only: bool = False) -> SqliteStore:
    return open_sqlite(folder, region="tokyo", deployment="shop", read_only=read_only)


def log_bytes(store: SqliteStore) -> int:
    return Path(f"{store.database}-wal").stat().st_size


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SqliteHarness:
        return SqliteHarness(tmp_path / "tokyo")

    @pytest.fixture
    def other(self, tmp_path: Path) -> SqliteHarness:
        return SqliteHarness(tmp_path / "copy")


async def test_sql_tools_read_documents_as_json(store: SqliteStore) -> None:
    await commit(store, put(("a", {"name": "Zoë"}), ("b", None)))
    with sqlite3.connect(store.database) as tool:
        rows = tool.execute(
            "SELECT key, value ->> 'name', typeof(value) FROM doc_note ORDER BY key"
        ).fetchall()
    tool.close()
    assert rows == [("a", "Zoë", "text"), ("b", None, "null")]


async def test_an_index_answers_what_is_asked(store: SqliteStore) -> None:
    await store.declare([Shape("note", (), ("sku",))])
    await commit(store, put(*((f"k{n:04}", {"sku": f"s{n}"}) for n in range(3_000))))
    term, bindings = condition_sql(Condition("sku", "eq", "s77"), "doc_note.value", indexed=True)
    with sqlite3.connect(store.database) as tool:
        plan = tool.execute(f"EXPLAIN QUERY PLAN SELECT key FROM doc_note WHERE {term}", bindings).fetchall()
    tool.close()
    assert "by_note.sku" in str(plan)
    assert [key for key, _ in (await store.scan("note", where=[Condition("sku", "eq", "s77")])).rows] == [
        "k0077"
    ]


async def test_every_commit_is_fsynced(harness: SqliteHarness, store: SqliteStore) -> None:
    for n in range(5):
        before = harness.disk.syncs
        await commit(store, put((f"k{n}", {})))
        assert harness.disk.syncs > before


async def test_document_that_holds_sql_is_only_data(store: SqliteStore) -> None:
    name = 'x"; DROP TABLE journal; --'
    await store.open_collections([name])
    await commit(store, put(("'; --", {"a": "'"}), collection=name))
    assert [key for key, _ in (await store.scan(name, prefix="'")).rows] == ["'; --"]
    assert await store.journal_tail() == 0


async def test_reader_in_another_thread_sees_only_committed_data(store: SqliteStore) -> None:
    seen: list[object] = []

    def within() -> Iterator[Segment]:
        """Asked for inside the transaction, when the documents have been written."""
        reader = threading.Thread(target=lambda: seen.append(asyncio.run(store.get("note", "a"))))
        reader.start()
        reader.join()
        yield Segment("tokyo", 1, 1, b"")

    await commit(store, Commit(documents={"note": [("a", b"{}", b"")]}, segments=within()))  # type: ignore[arg-type]
    assert seen == [None]
    assert await store.get("note", "a") is not None


async def test_a_large_commit_runs_beside_the_event_loop(store: SqliteStore) -> None:
    await commit(store, replace(put(("a", {"n": 0})), positions={"tokyo": 1}))
    written, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def within() -> Iterator[Segment]:
        """Asked for inside the transaction, when the documents have been written."""
        loop.call_soon_threadsafe(written.set)
        go_on.wait()
        yield Segment("tokyo", 2, 2, b"")

    rows = [("a", b'{"n":1}', b"m:a"), ("b", b"{}", b"m:b")]
    large = Commit({"note": rows}, segments=within(), positions={"tokyo": 2}, size_bytes=3 << 20)  # type: ignore[arg-type]
    committing = asyncio.create_task(commit(store, large))
    await written.wait()
    before = (await store.get("note", "a"), {"tokyo": 1})
    assert await store.read("note", "a") == before
    assert (await store.scan("note")).positions == before[1]
    others = (
        store.advance_counter("c", 1),
        store.truncate(0),
        store.forget(remembered_before_ms=0, audit_before_ms=0, audit_keep=9),
        store.remembered([]),
    )
    waiting: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in others]
    assert not (await asyncio.wait(waiting, timeout=0))[0]
    committing.cancel()  # it can be cut no more
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await committing
    await asyncio.gather(*waiting)
    assert await store.read("note", "a") == (Row(b'{"n":1}', b"m:a"), {"tokyo": 2})
    assert len((await store.scan("note")).rows) == 2


async def test_many_large_documents_are_loaded_beside_the_event_loop(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(store, Commit({"note": [(f"k{n}", b"x" * 1_000_000, b"m") for n in range(5)]}))
    loaded: list[int] = []
    load_rows = store.load

    def watched(*args: Any) -> Iterator[Any]:
        for row in load_rows(*args):
            loaded.append(threading.get_ident())
            yield row

    monkeypatch.setattr(store, "load", watched)
    async with store.begin(Wanted({"note": [f"k{n}" for n in range(5)]})) as transaction:
        assert sorted(transaction.rows) == [("note", f"k{n}") for n in range(5)]
    here = threading.get_ident()
    assert [ident == here for ident in loaded] == [True, True, True, False, False]


async def test_a_large_segment_is_read_beside_the_event_loop(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [10, 3 << 20, 20, 30, 3 << 20]
    await commit(
        store, Commit(segments=[Segment("tokyo", n, n, b"x" * size) for n, size in enumerate(sizes)])
    )
    threads: list[int] = []
    read = SqliteStore._long_segment

    def watched(self: SqliteStore, id: int) -> Any:
        threads.append(threading.get_ident())
        return read(self, id)

    monkeypatch.setattr(SqliteStore, "_long_segment", watched)
    pages: list[list[int]] = []
    after = 0
    while found := await store.journal(after):
        pages.append([len(each.segment.body) for each in found])
        after = found[-1].id
    assert pages == [[10], [3 << 20], [20, 30], [3 << 20]]
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    assert store._long_segment(99) == []  # truncated


async def test_row_that_another_program_took_away_within_a_transaction_is_noticed(store: SqliteStore) -> None:
    await commit(store, put(("a", {}), ("b", {})))
    async with store.begin(Wanted({"note": ["a", "b"]})) as transaction:
        with contextlib.closing(sqlite3.connect(store.database)) as tool, tool:
            tool.execute("DELETE FROM doc_note WHERE key = 'a'")
        with pytest.raises(StoreCorrupt, match="another program"):
            await transaction.commit(put(("a", {"n": 1}), ("b", {"n": 1}), ("c", {})))
    assert (await store.scan("note")).rows == [("b", Row(b"{}", b"m:b"))]


# Whose database it is


@pytest.mark.parametrize(
    ("region", "deployment", "told"),
    [("oregon", "shop", "belongs to region 'tokyo'"), ("tokyo", "blog", "belongs to deployment 'shop'")],
)
async def test_other_regions_database_is_refused(
    harness: SqliteHarness, store: SqliteStore, region: str, deployment: str, told: str
) -> None:
    await store.close()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match=told):
            open_sqlite(harness.folder, region=region, deployment=deployment, read_only=read_only)
    await harness.open().close()  # and the attempt left no lock behind


async def test_newer_format_is_refused(harness: SqliteHarness, store: SqliteStore) -> None:
    await store.close()
    with sqlite3.connect(harness.folder / DATABASE_FILE) as tool:
        tool.execute("UPDATE settings SET value = 99 WHERE name = 'format'")
    tool.close()
    with pytest.raises(ConfigError, match="format 99; this Atoll knows up to 2"):
        harness.open()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("ended", ["closed", "crashed", "crashed at once"])
async def test_older_format_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, read_only: bool
) -> None:
    monkeypatch.setattr(sqlite_database, "FORMAT", 1)
    store = open_sqlite(tmp_path / "old", region="tokyo", deployment="shop")
    await store.open_collections(["note"])
    await commit(store, put(("a", {}), ("b", {})))
    if ended == "crashed":
        await store.checkpoint()
        await commit(store, put(("c", {})))
    if ended == "closed":
        await store.close()
    left = tmp_path / "left"
    shutil.copytree(tmp_path / "old", left)
    await store.close()
    monkeypatch.undo()
    before = {path.name: path.read_bytes() for path in left.iterdir()}
    assert ("region.sqlite-wal" in before) == (ended != "closed")
    with pytest.raises(
        ConfigError, match=r"left/region.sqlite has format 1; .* `atoll export`.* `atoll import`"
    ):
        open_sqlite(left, region="tokyo", deployment="shop", read_only=read_only)
    assert {path.name: path.read_bytes() for path in left.iterdir()} == before


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreCorrupt, match=f"{DATABASE_FILE} is damaged"):
        open_tokyo(tmp_path)


def test_someone_elses_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as tool:
        tool.execute("CREATE TABLE customers (id)")
    tool.close()
    with pytest.raises(StoreCorrupt, match="not an Atoll database"):
        open_tokyo(tmp_path)


async def test_creation_that_was_cut_short_starts_again(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).touch()
    store = open_tokyo(tmp_path)
    assert await store.positions() == {}
    await store.close()


async def test_damaged_page_is_reported_as_corruption(harness: SqliteHarness, store: SqliteStore) -> None:
    await commit(store, put(*((f"k{n:04}", {"n": "x" * 900}) for n in range(500))))
    await store.close()
    with (harness.folder / DATABASE_FILE).open("r+b") as file:
        file.seek(16 * 4096)
        file.write(b"\xa5" * 4096 * 60)
    again = harness.open()
    with pytest.raises(StoreCorrupt, match="rebuild the region from its peers"):
        await again.scan_all("note")
    await again.close()


# One writer


async def test_second_opener_is_refused_until_the_first_closes(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    with pytest.raises(StoreLocked, match=f"process {os.getpid()} already runs the region"):
        harness.open()
    await store.close()
    await harness.open().close()


async def test_reader_beside_the_running_region_sees_its_commits(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    beside = open_tokyo(harness.folder, read_only=True)
    await commit(store, put(("a", {})))
    assert await beside.get("note", "a") == await store.get("note", "a")
    with pytest.raises(StoreUnwritable, match="opened for reading only"):
        await commit(beside, Commit(clock=1))
    await beside.open_collections(["declared-later"])
    assert (await beside.scan("declared-later")).rows == []
    await beside.close()


async def test_a_reader_beside_the_running_region_sees_one_moment(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    beside = open_tokyo(harness.folder, read_only=True)

    def commit_in_between(cursor: apsw.Cursor, statement: str, bindings: apsw.Bindings | None) -> bool:
        if "positions" in statement:
            seq = store.head().positions.get("tokyo", 0) + 1
            store.commit(Commit({"note": [(f"k{seq}", b"{}", b"m")]}, positions={"tokyo": seq}), {})
        return True

    beside.connections.reader.exec_trace = commit_in_between
    assert await beside.scan("note") == ([], {})
    assert await beside.scan("note") == ([("k1", Row(b"{}", b"m"))], {"tokyo": 1})
    assert await beside.read("note", "k3") == (None, {"tokyo": 2})
    await beside.close()


def test_reading_a_region_that_never_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no region's database"):
        open_tokyo(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


# Disks that fail


async def test_full_disk_is_named_with_its_remedy(harness: SqliteHarness, store: SqliteStore) -> None:
    harness.disk.full = True
    with pytest.raises(
        StoreUnwritable, match=f"{DATABASE_FILE} cannot be written: the disk is full .*free some"
    ):
        await commit(store, put(("a", {})))
    for write in (store.raise_counter("n", 1), store.open_collections(["more"])):
        with pytest.raises(StoreUnwritable):
            await write
    await store.checkpoint()
    harness.disk.full = False
    await store.open_collections(["more"])
    assert await store.counter("n") == 0


async def test_file_size_limit_stops_writes_and_not_reads(store: SqliteStore) -> None:
    await commit(store, put(("a", {"n": 1})))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = log_bytes(store) + 5_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreUnwritable, match="Reads continue"):
            await commit(store, put(("b", {"blob": "x" * 100_000})))
        assert [key for key, _ in (await store.scan("note")).rows] == ["a"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await commit(store, put(("b", {"blob": "x" * 100_000})))
    assert (await load(store, "note", ["a", "b"])).keys() == {"a", "b"}


async def test_failed_fsync_is_indefinite_and_stops_writes(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    harness.disk.failing_fsync = True
    with pytest.raises(Indefinite, match="may have happened"):
        await commit(store, put(("a", {})))
    harness.disk.failing_fsync = False
    with pytest.raises(StoreUnwritable, match="restart the region"):
        await commit(store, put(("b", {})))
    assert await store.get("note", "a") is None
    await store.close()
    again = harness.open()
    await commit(again, put(("b", {})))
    await again.close()


async def test_failed_fsync_of_a_checkpoint_keeps_the_log_until_recovery(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    await commit(store, put(("a", {})))
    harness.disk.failing_fsync_of_database = True
    await store.checkpoint()
    with pytest.raises(StoreUnwritable, match="since an fsync failed"):
        await commit(store, put(("b", {})))
    harness.disk.failing_fsync_of_database = False
    await store.checkpoint()
    await store.close()
    assert log_bytes(store) > 0
    again = harness.open()
    assert await again.get("note", "a") is not None
    await commit(again, put(("b", {})))
    await again.close()


def test_folder_that_cannot_be_made_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match="no database to read from"):
        open_tokyo(tmp_path / "file" / "tokyo")


READ_WITHOUT_RIGHTS = """
import asyncio, json, os, sys
from pathlib import Path
from atoll.errors import StoreUnwritable
from atoll.store.port import Commit, Wanted
from atoll.store.sqlite.store import open_sqlite
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
told = []

async def main():
    store = open_sqlite(Path(sys.argv[1]), region="tokyo", deployment="shop")
    told.append([key for key, _ in (await store.scan("note")).rows])
    async with store.begin(Wanted()) as transaction:
        await transaction.commit(Commit(clock=1))

try:
    asyncio.run(main())
except StoreUnwritable as error:
    told.append(error.message)
print(json.dumps(told))
"""


@pytest.fixture
async def protected(tmp_path: Path) -> AsyncIterator[Path]:
    """A region's folder that only others may write, below folders that anyone may enter."""
    folder = tmp_path / "tokyo"
    await open_tokyo(folder).close()
    opened = {parent: parent.stat().st_mode for parent in folder.parents if parent.owner() == folder.owner()}
    for parent, mode in opened.items():
        if mode & 0o011 != 0o011:
            parent.chmod(mode | 0o011)
    yield folder
    folder.chmod(0o755)
    for parent, mode in opened.items():
        parent.chmod(mode)


def without_rights(folder: Path) -> list[object]:
    folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_RIGHTS, str(folder)], capture_output=True, text=True, check=True
    )
    found: list[object] = json.loads(done.stdout)
    return found


def make_read_only(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o444)


async def test_read_only_folder_is_served_without_writes(protected: Path) -> None:
    store = open_tokyo(protected)
    await store.open_collections(["note"])
    await commit(store, put(("a", {})))
    await store.close()
    make_read_only(protected)
    keys, refusal = without_rights(protected)
    assert keys == ["a"]
    assert "it is read-only" in str(refusal)


def test_read_only_folder_without_a_database_is_refused(protected: Path) -> None:
    for file in protected.iterdir():
        file.unlink()
    (refusal,) = without_rights(protected)
    assert "no database to read from" in str(refusal)


# Checkpoints


async def test_log_is_reused_after_a_checkpoint(store: SqliteStore) -> None:
    sizes = []
    for n in range(6):
        await commit(store, put((f"k{n}", {"blob": "x" * 1_000_000})))
        await store.checkpoint()
        sizes.append(log_bytes(store))
    assert sizes[-1] == sizes[1]


async def test_log_stays_bounded_beside_a_busy_writer(store: SqliteStore) -> None:
    done = threading.Event()

    def housekeeping() -> None:
        while not done.is_set():
            store.connections.copy_log()

    thread = threading.Thread(target=housekeeping)
    thread.start()
    try:
        for n in range(1, 121):
            await commit(store, Commit(segments=[Segment("tokyo", n, n, b"x" * 1_000_000)]))
    finally:
        done.set()
        thread.join()
    assert log_bytes(store) < WAL_KEPT_BYTES * 1.5
    assert await store.journal_tail() == 120


async def test_commits_checkpoint_by_themselves_when_nobody_does(store: SqliteStore) -> None:
    for n in range(1, 21):
        await commit(store, Commit(segments=[Segment("tokyo", n, n, b"x" * 10_000_000)]))
    assert log_bytes(store) < 150 << 20
    assert store.database.stat().st_size > 100 << 20


async def test_close_leaves_one_whole_file(harness: SqliteHarness, store: SqliteStore) -> None:
    await commit(store, put(("a", {})))
    await store.close()
    assert {file.name for file in harness.folder.iterdir()} == {DATABASE_FILE, "region.lock"}
    with apsw.Connection(str(harness.folder / DATABASE_FILE)) as check:
        assert check.pragma("integrity_check") == "ok"
    check.close()


async def test_the_other_kind_of_store_takes_the_contents(store: SqliteStore, tmp_path: Path) -> None:
    await commit(store, put(("a", {"name": "Zoë"}), ("b", None)))
    memory = MemoryStore()
    await memory.fill(store.contents())
    back = open_sqlite(tmp_path / "back", region="tokyo", deployment="shop")
    await back.fill(memory.contents())
    assert await back.scan_all("note") == await store.scan_all("note")
    await back.close()
