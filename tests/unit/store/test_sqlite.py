from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from tests.unit.store.conformance import StoreConformance, put
from tests.unit.store.faulty_disk import FaultyDisk

from atoll.errors import ConfigError, Indefinite, StoreCorrupt, StoreLocked, StoreUnwritable
from atoll.store.port import Commit, Segment, Store
from atoll.store.sqlite import SqliteStore, open_sqlite
from atoll.store.sqlite_database import DATABASE_FILE, WAL_KEPT_BYTES


class SqliteHarness:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = FaultyDisk()

    def open(self) -> SqliteStore:
        return open_sqlite(self.folder, region="tokyo", deployment="shop", vfs=self.disk.vfs_name)

    def refuse_writes(self, store: Store) -> None:
        self.disk.full = True

    def accept_writes(self, store: Store) -> None:
        self.disk.full = False


@pytest.fixture
def harness(tmp_path: Path) -> SqliteHarness:
    return SqliteHarness(tmp_path / "data" / "tokyo")


@pytest.fixture
def store(harness: SqliteHarness) -> Iterator[SqliteStore]:
    store = harness.open()
    store.open_collections(["note"])
    yield store
    store.close()


def open_tokyo(folder: Path, *, read_only: bool = False) -> SqliteStore:
    return open_sqlite(folder, region="tokyo", deployment="shop", read_only=read_only)


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SqliteHarness:
        return SqliteHarness(tmp_path / "tokyo")


def test_sql_tools_read_documents_as_json(store: SqliteStore) -> None:
    store.commit(put(("a", {"name": "Zoë"}), ("b", None)))
    with sqlite3.connect(store.database) as tool:
        rows = tool.execute(
            "SELECT key, value ->> 'name', typeof(value) FROM doc_note ORDER BY key"
        ).fetchall()
    tool.close()
    assert rows == [("a", "Zoë", "text"), ("b", None, "null")]


def test_every_commit_is_fsynced(harness: SqliteHarness, store: SqliteStore) -> None:
    for n in range(5):
        before = harness.disk.syncs
        store.commit(put((f"k{n}", {})))
        assert harness.disk.syncs > before


def test_document_that_holds_sql_is_only_data(store: SqliteStore) -> None:
    name = 'x"; DROP TABLE journal; --'
    store.open_collections([name])
    store.commit(put(("'; --", {"a": "'"}), collection=name))
    assert [key for key, _ in store.scan(name, prefix="'")] == ["'; --"]
    assert store.journal_tail() == 0


def test_reader_in_another_thread_sees_only_committed_data(store: SqliteStore) -> None:
    seen: list[object] = []

    def rows() -> Iterator[tuple[str, bytes | None, bytes]]:
        yield ("a", b"{}", b"")
        reader = threading.Thread(target=lambda: seen.append(store.get("note", "a")))
        reader.start()
        reader.join()

    store.commit(Commit(documents={"note": rows()}))  # type: ignore[dict-item]
    assert seen == [None]
    assert store.get("note", "a") is not None


# Whose database it is


@pytest.mark.parametrize(
    ("region", "deployment", "told"),
    [("oregon", "shop", "belongs to region 'tokyo'"), ("tokyo", "blog", "belongs to deployment 'shop'")],
)
def test_other_regions_database_is_refused(
    harness: SqliteHarness, store: SqliteStore, region: str, deployment: str, told: str
) -> None:
    store.close()
    for read_only in (False, True):
        with pytest.raises(ConfigError, match=told):
            open_sqlite(harness.folder, region=region, deployment=deployment, read_only=read_only)
    harness.open().close()  # and the attempt left no lock behind


def test_newer_format_is_refused(harness: SqliteHarness, store: SqliteStore) -> None:
    store.close()
    with sqlite3.connect(harness.folder / DATABASE_FILE) as tool:
        tool.execute("UPDATE settings SET value = 99 WHERE name = 'format'")
    tool.close()
    with pytest.raises(ConfigError, match="format 99; this Atoll knows up to 1"):
        harness.open()


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreCorrupt, match=f"{DATABASE_FILE} is damaged"):
        open_tokyo(tmp_path)


def test_someone_elses_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_FILE) as tool:
        tool.execute("CREATE TABLE customers (id)")
    tool.close()
    with pytest.raises(StoreCorrupt, match="not a database that Atoll made"):
        open_tokyo(tmp_path)


def test_creation_that_was_cut_short_starts_again(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).touch()
    store = open_tokyo(tmp_path)
    assert store.positions() == {}
    store.close()


def test_damaged_page_is_reported_as_corruption(harness: SqliteHarness, store: SqliteStore) -> None:
    store.commit(put(*((f"k{n:04}", {"n": "x" * 900}) for n in range(500))))
    store.close()
    with (harness.folder / DATABASE_FILE).open("r+b") as file:
        file.seek(16 * 4096)
        file.write(b"\xa5" * 4096 * 60)
    again = harness.open()
    with pytest.raises(StoreCorrupt, match="rebuild the region from its peers"):
        again.scan_all("note")
    again.close()


# One writer


def test_second_opener_is_refused_until_the_first_closes(harness: SqliteHarness, store: SqliteStore) -> None:
    with pytest.raises(StoreLocked, match=f"process {os.getpid()} already runs the region"):
        harness.open()
    store.close()
    harness.open().close()


def test_reader_beside_the_running_region_sees_its_commits(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    beside = open_tokyo(harness.folder, read_only=True)
    store.commit(put(("a", {})))
    assert beside.get("note", "a") == store.get("note", "a")
    with pytest.raises(StoreUnwritable, match="opened for reading only"):
        beside.commit(Commit(clock=1))
    beside.open_collections(["declared-later"])
    assert beside.scan("declared-later") == []
    beside.close()


def test_reading_a_region_that_never_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no region's database"):
        open_tokyo(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


# Disks that fail


def test_full_disk_is_named_with_its_remedy(harness: SqliteHarness, store: SqliteStore) -> None:
    harness.disk.full = True
    with pytest.raises(
        StoreUnwritable, match=f"{DATABASE_FILE} cannot be written: the disk is full .*free some"
    ):
        store.commit(put(("a", {})))
    for write in (lambda: store.raise_counter("n", 1), lambda: store.open_collections(["more"])):
        with pytest.raises(StoreUnwritable):
            write()
    store.checkpoint()
    harness.disk.full = False
    store.open_collections(["more"])
    assert store.counter("n") == 0


def test_file_size_limit_stops_writes_and_not_reads(store: SqliteStore) -> None:
    store.commit(put(("a", {"n": 1})))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = Path(f"{store.database}-wal").stat().st_size + 5_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreUnwritable, match="Reads go on"):
            store.commit(put(("b", {"blob": "x" * 100_000})))
        assert [key for key, _ in store.scan("note")] == ["a"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.commit(put(("b", {"blob": "x" * 100_000})))
    assert store.load("note", ["a", "b"]).keys() == {"a", "b"}


def test_failed_fsync_is_indefinite_and_stops_writes(harness: SqliteHarness, store: SqliteStore) -> None:
    harness.disk.failing_fsync = True
    with pytest.raises(Indefinite, match="may have happened"):
        store.commit(put(("a", {})))
    harness.disk.failing_fsync = False
    with pytest.raises(StoreUnwritable, match="restart the region"):
        store.commit(put(("b", {})))
    assert store.get("note", "a") is None
    store.close()
    again = harness.open()
    again.commit(put(("b", {})))
    again.close()


def test_failed_fsync_of_a_checkpoint_keeps_the_log_until_recovery(
    harness: SqliteHarness, store: SqliteStore
) -> None:
    store.commit(put(("a", {})))
    harness.disk.failing_fsync_of_database = True
    store.checkpoint()
    with pytest.raises(StoreUnwritable, match="since an fsync failed"):
        store.commit(put(("b", {})))
    harness.disk.failing_fsync_of_database = False
    store.checkpoint()
    store.close()
    assert Path(f"{store.database}-wal").stat().st_size > 0
    again = harness.open()
    assert again.get("note", "a") is not None
    again.commit(put(("b", {})))
    again.close()


def test_folder_that_cannot_be_made_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritable, match="no database to read from"):
        open_tokyo(tmp_path / "file" / "tokyo")


READ_WITHOUT_RIGHTS = """
import json, os, sys
from pathlib import Path
from atoll.errors import StoreUnwritable
from atoll.store.port import Commit
from atoll.store.sqlite import open_sqlite
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
told = []
try:
    store = open_sqlite(Path(sys.argv[1]), region="tokyo", deployment="shop")
    told.append([key for key, _ in store.scan("note")])
    store.commit(Commit(clock=1))
except StoreUnwritable as error:
    told.append(error.message)
print(json.dumps(told))
"""


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Path]:
    """A region's folder that only others may write, below folders that anyone may enter."""
    folder = tmp_path / "tokyo"
    open_tokyo(folder).close()
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


def test_read_only_folder_is_served_without_writes(protected: Path) -> None:
    store = open_tokyo(protected)
    store.open_collections(["note"])
    store.commit(put(("a", {})))
    store.close()
    for file in protected.iterdir():
        file.chmod(0o444)
    keys, refusal = without_rights(protected)
    assert keys == ["a"]
    assert "it is read-only" in str(refusal)


def test_read_only_folder_without_a_database_is_refused(protected: Path) -> None:
    for file in protected.iterdir():
        file.unlink()
    (refusal,) = without_rights(protected)
    assert "no database to read from" in str(refusal)


# Checkpoints


def test_log_is_reused_after_a_checkpoint(store: SqliteStore) -> None:
    log = Path(f"{store.database}-wal")
    sizes = []
    for n in range(6):
        store.commit(put((f"k{n}", {"blob": "x" * 1_000_000})))
        store.checkpoint()
        sizes.append(log.stat().st_size)
    assert sizes[-1] == sizes[1]


def test_log_stays_bounded_beside_a_busy_writer(store: SqliteStore) -> None:
    done = threading.Event()

    def housekeeping() -> None:
        while not done.is_set():
            store.checkpoint()

    thread = threading.Thread(target=housekeeping)
    thread.start()
    try:
        for n in range(1, 121):
            store.commit(Commit(segments=[Segment("tokyo", n, n, b"x" * 1_000_000)]))
    finally:
        done.set()
        thread.join()
    assert Path(f"{store.database}-wal").stat().st_size < WAL_KEPT_BYTES * 1.5
    assert store.journal_tail() == 120


def test_commits_checkpoint_by_themselves_when_nobody_does(store: SqliteStore) -> None:
    for n in range(1, 21):
        store.commit(Commit(segments=[Segment("tokyo", n, n, b"x" * 10_000_000)]))
    assert Path(f"{store.database}-wal").stat().st_size < 150 << 20
    assert store.database.stat().st_size > 100 << 20


def test_close_leaves_one_whole_file(harness: SqliteHarness, store: SqliteStore) -> None:
    store.commit(put(("a", {})))
    store.close()
    assert {file.name for file in harness.folder.iterdir()} == {DATABASE_FILE, "region.lock"}
    with apsw.Connection(str(harness.folder / DATABASE_FILE)) as check:
        assert check.pragma("integrity_check") == "ok"
    check.close()
