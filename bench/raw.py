"""What SQLite does without Atoll, with the same settings, documents and durability.

Write tests run past several checkpoints: one that ends before the first flatters itself by a third.
Run as `python -m bench.raw [FOLDER]`; without a folder, a temporary one.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter, perf_counter_ns

import apsw

from bench.documents import document_body, document_key

PRELOADED = 100_000
CHECKPOINT_PAGES = 1000
"""SQLite's own default for `wal_autocheckpoint`."""
LEAST_CHECKPOINTS = 5

_SCHEMA = """
CREATE TABLE documents (key TEXT PRIMARY KEY, value BLOB, meta BLOB NOT NULL);
CREATE TABLE journal (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE positions (origin TEXT PRIMARY KEY, seq INTEGER NOT NULL);
"""
_UPSERT = """
INSERT INTO documents (key, value, meta) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, meta = excluded.meta
"""
_APPEND = "INSERT INTO journal (origin, seq, body) VALUES ('here', ?, ?)"
_ADVANCE = "INSERT INTO positions VALUES ('there', ?) ON CONFLICT (origin) DO UPDATE SET seq = excluded.seq"
_META = bytes(48)


@dataclass(frozen=True, slots=True)
class WriteRate:
    """How fast durable batches went. A row is one document (with its journal row, where there is one)."""

    rows_per_second: float
    p50_ms: float
    """Of one batch's transaction."""
    p99_ms: float
    checkpoints: int


class _Checkpoints:
    """SQLite's automatic checkpoint, spelled out so that it can be counted."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.count = 0

    def __call__(self, connection: apsw.Connection, database: str, pages_in_log: int) -> int:
        if pages_in_log >= self.pages:
            connection.wal_checkpoint(database)
            self.count += 1
        return apsw.SQLITE_OK


def _create(path: Path, checkpoints: _Checkpoints) -> apsw.Connection:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
    connection.execute(_SCHEMA)
    connection.set_wal_hook(checkpoints)
    return connection


def _preload(connection: apsw.Connection, count: int) -> None:
    rows = ((document_key(n), document_body(n), _META) for n in range(count))
    with connection:
        connection.executemany(_UPSERT, rows)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _measure(
    write: Callable[[int], None], batch: int, seconds: float, checkpoints: _Checkpoints
) -> WriteRate:
    """Call `write(first)` for one batch after the other until both time and checkpoints are enough."""
    took_ms: list[float] = []
    checkpoints.count = 0
    started = before = perf_counter()
    while before - started < seconds or checkpoints.count < LEAST_CHECKPOINTS:
        write(len(took_ms) * batch)
        after = perf_counter()
        took_ms.append((after - before) * 1000)
        before = after
    return WriteRate(
        rows_per_second=len(took_ms) * batch / (before - started),
        p50_ms=median(took_ms),
        p99_ms=quantiles(took_ms, n=100)[98],
        checkpoints=checkpoints.count,
    )


def raw_commit_rate(
    folder: Path,
    batch: int = 64,
    seconds: float = 3,
    checkpoint_pages: int = CHECKPOINT_PAGES,
    preloaded: int = 0,
) -> WriteRate:
    """New documents beside `preloaded` ones, each with a journal row of its size; a transaction per batch.

    The rate falls as the table grows: compare with an equal `preloaded`.
    """
    checkpoints = _Checkpoints(checkpoint_pages)
    with closing(_create(folder / "raw-commit.db", checkpoints)) as connection:
        _preload(connection, preloaded)

        def write(first: int) -> None:
            numbers = range(preloaded + first, preloaded + first + batch)
            with_meta = [(document_key(n), document_body(n), _META) for n in numbers]
            records = [(n, document_body(n)) for n in numbers]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, with_meta)
            connection.executemany(_APPEND, records)
            connection.execute("COMMIT")

        return _measure(write, batch, seconds, checkpoints)


def raw_apply_rate(
    folder: Path,
    batch: int = 256,
    seconds: float = 3,
    *,
    checkpoint_pages: int = CHECKPOINT_PAGES,
    preloaded: int = PRELOADED,
    journal: bool = False,
) -> WriteRate:
    """Blind upserts over `preloaded` documents, with the origin's position, and with `journal` a row there each."""
    checkpoints = _Checkpoints(checkpoint_pages)
    random = Random("apply")
    with closing(_create(folder / "raw-apply.db", checkpoints)) as connection:
        _preload(connection, preloaded)

        def write(first: int) -> None:
            chosen = [random.randrange(preloaded) for _ in range(batch)]
            rows = [(document_key(n), document_body(first + n), _META) for n in chosen]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, rows)
            if journal:
                connection.executemany(_APPEND, [(first + n, row[1]) for n, row in enumerate(rows)])
            connection.execute(_ADVANCE, (first + batch,))
            connection.execute("COMMIT")

        return _measure(write, batch, seconds, checkpoints)


def raw_read_p50_us(folder: Path, reads: int = 30_000, preloaded: int = PRELOADED) -> float:
    """The median time of one `SELECT` by key through the standard library, among `preloaded` documents."""
    path = folder / "raw-read.db"
    with closing(_create(path, _Checkpoints(CHECKPOINT_PAGES))) as writer:
        _preload(writer, preloaded)
    random = Random("read")
    keys = [document_key(random.randrange(preloaded)) for _ in range(reads)]
    took_ns = []
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        for key in keys:
            before = perf_counter_ns()
            reader.execute("SELECT value, meta FROM documents WHERE key = ?", (key,)).fetchone()
            took_ns.append(perf_counter_ns() - before)
    return median(took_ns) / 1000


def main(folder: Path) -> None:
    for batch in (1, 16, 64, 256):
        print(f"commit, batch {batch:3d}   {_row(raw_commit_rate(folder, batch))}")
    print(f"apply,  batch 256   {_row(raw_apply_rate(folder))}")
    print(f"read by key         {raw_read_p50_us(folder):9.1f} µs p50")


def _row(rate: WriteRate) -> str:
    return (
        f"{rate.rows_per_second:9,.0f} rows/s   p50 {rate.p50_ms:6.2f} ms   p99 {rate.p99_ms:6.2f} ms   "
        f"{rate.checkpoints} checkpoints"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
