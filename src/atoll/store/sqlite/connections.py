"""The connections to one region's SQLite database: reads, transactions, the write-ahead log, and what errors mean.

Reads go through a connection of their own: they see committed data only, also while a commit runs. A transaction reads
by the writer's, whose cache outlives commits: the pages are about to be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

import apsw

from atoll.errors import AtollError, Indefinite, StoreCorrupt, StoreError, StoreLocked, StoreUnwritable
from atoll.store.collector import uncollected
from atoll.store.sqlite import database as sqlite_database
from atoll.store.sqlite.database import PAGE_BYTES, Opened

Found = TypeVar("Found")

_KEYS_AT_ONCE = 512
_ROWS_AT_ONCE = 32
"""That are read before others are: large ones would hold too much memory together."""
_WAL_RESTART_PAGES = (32 << 20) // PAGE_BYTES
_WAL_BOUND_PAGES = (128 << 20) // PAGE_BYTES
"""Past this a commit checkpoints by itself: the safety net when nobody calls `checkpoint` often enough."""
_REST_PAGES = (2 << 20) // PAGE_BYTES
"""So little of the log may be left for a commit to copy before it starts the log over."""
_MOST_PASSES = 4


class Connections:
    """Of one store, for reading and, unless the database is only read, for writing."""

    def __init__(self, opened: Opened) -> None:
        self.database = opened.database
        self.refusal = opened.refusal
        """Why commits are refused; empty while they are taken."""
        self.reader = opened.reader
        self.writer = opened.writer
        self.loader = opened.writer or opened.reader
        self._opened = opened
        self._checkpointer: apsw.Connection | None = None
        self._checkpointing = threading.Lock()
        self._searcher: apsw.Connection | None = None
        self._searching = threading.Lock()
        self._closed = False
        self.working: asyncio.Future[Any] | None = None
        """What a thread does by the writer; nobody else may use that one meanwhile."""
        self._log_pages = 0
        self._log_nearly_copied = False
        self._pid = os.getpid()
        if self.writer is not None:
            self.writer.set_wal_hook(self._on_log)
        _OPEN.add(self)

    def _forked(self) -> None:
        """In a forked process. SQLite's locks are not there, and using or closing its connections damages the database.

        A lock of the folder would last as long as this process.
        """
        self._closed = True
        self._log_pages, self._log_nearly_copied = 0, False
        for connection in (self.reader, self.writer, self._checkpointer, self._searcher):
            if connection is not None:
                _INHERITED.append(connection)
                # One that another thread was using as the process forked stays locked, and refuses by itself.
                with contextlib.suppress(apsw.Error):
                    connection.set_exec_trace(self._refuse)
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if self._opened.lock is not None:
            self._opened.lock.release()

    def _refuse(self, *_: object) -> NoReturn:
        raise StoreLocked(
            f"{self.database} was opened by process {self._pid}, which this one was forked from: open the region"
            " after the fork, or connect to its url",
            pid=self._pid,
            folder=str(self.database.parent),
        )

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """What a query finds that was committed."""
        return self._rows(self.reader, sql, bindings)

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read in it is one snapshot of what was committed, also beside another process that commits."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            self.rows("ROLLBACK")

    def beside(self, work: Callable[[apsw.Connection], Found]) -> Found:
        """Do what takes long in one snapshot, through a connection of its own. For another thread than the loop's."""
        with self._searching:
            if self._searcher is None:
                self._searcher = self.connect_reader()
            try:
                self._searcher.execute("BEGIN")
                return work(self._searcher)
            except apsw.Error as error:
                raise self.failure(error) from error
            finally:
                if self._searcher.in_transaction:
                    self._searcher.execute("ROLLBACK")

    def load(self, sql: str, bindings: Sequence[Any]) -> list[Any]:
        """As `rows`, in a transaction: what the writer sees."""
        return self._rows(self.loader, sql, bindings)

    def among(self, select: str, keys: Sequence[str], *before: str) -> Iterator[Any]:
        """Rows whose key is among `keys`; with powers of two of placeholders, to prepare few statements.

        `before`: bound to what precedes the keys in `select`.
        """
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            chunk = keys[start : start + _KEYS_AT_ONCE]
            places = 1 << (len(chunk) - 1).bit_length()
            padding = [chunk[-1]] * (places - len(chunk))
            sql = f"{select}(?{', ?' * (places - 1)})"
            try:
                rows = self.loader.execute(sql, [*before, *chunk, *padding])
                while found := list(islice(rows, _ROWS_AT_ONCE)):
                    yield from found
            except apsw.Error as error:
                raise self.failure(error) from error

    def _rows(self, connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        try:
            return connection.execute(sql, bindings).fetchall()
        except apsw.Error as error:
            raise self.failure(error) from error

    def __enter__(self) -> apsw.Connection:
        """The writer, in a transaction: all or nothing.

        Raises Indefinite when an fsync failed, then StoreUnwritable until reopened.
        """
        if self.writer is None or self.refusal:
            raise StoreUnwritable(self.refusal, database=str(self.database))
        try:
            self.writer.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise self.failure(error) from error
        return self.writer

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self.writer is not None
        if error is None:
            try:
                self.writer.execute("COMMIT")
                return
            except BaseException as refused:
                error = refused
        with contextlib.suppress(apsw.Error):  # SQLite has rolled back already after some errors
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")
        if isinstance(error, apsw.Error):
            raise self.failure(error) from error
        raise error

    def change(self, sql: str, bindings: Sequence[Any]) -> int:
        """How many rows one statement has changed, in a transaction of its own."""
        with self as writer:
            before = writer.total_changes()
            writer.execute(sql, bindings)
            return writer.total_changes() - before

    async def work_beside(self, work: Callable[[], Found]) -> Found:
        """Let a thread use the writer for what takes long. A cancelled caller still waits for its end."""
        await self.writer_free()
        self.working = working = asyncio.get_running_loop().run_in_executor(None, uncollected, work)
        working.add_done_callback(self._worked)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise

    def _worked(self, _: object) -> None:
        self.working = None

    async def writer_free(self) -> None:
        """Return once no thread uses the writer."""
        while self.working is not None:
            await asyncio.wait([self.working])

    def connect_reader(self) -> apsw.Connection:
        """One more, for a read that takes long."""
        if self._pid != os.getpid():
            self._refuse()
        return sqlite_database.connect_reader(str(self.database), self._opened.vfs)

    def copy_log(self) -> None:
        """Copy the write-ahead log into the database; a disk that refuses is left for a commit to report.

        The log's file is reused, not truncated (`journal_size_limit` cuts it back after a burst). Writing over it made
        single commits 1.45 times as fast as growing it.
        """
        with self._checkpointing:
            if self._closed or self.refusal:
                return
            try:
                if self._checkpointer is None:
                    self._checkpointer = sqlite_database.connect(self.database, self._opened.vfs)
                for _ in range(_MOST_PASSES):
                    pages, copied = self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                    # Each pass leaves what was written during the one before: ever less.
                    if pages <= _WAL_RESTART_PAGES or self._log_pages - copied <= _REST_PAGES:
                        break
                self._log_nearly_copied = pages > _WAL_RESTART_PAGES
            except sqlite_database.UNWRITABLE as error:
                self.failure(error)

    @property
    def log_must_be_copied(self) -> bool:
        """Whether the next commit can start the log over if the rest is copied, or the log is too long."""
        return self._log_nearly_copied or self._log_pages > _WAL_BOUND_PAGES

    def copy_rest_of_log(self) -> None:
        """Copy what was written since `checkpoint` began, so that the next commit starts the log over.

        A writer that never pauses would let it grow for ever; and a RESTART from the other thread never
        gets through beside one.
        """
        assert self.writer is not None
        self._log_nearly_copied = False
        try:
            self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except sqlite_database.UNWRITABLE as error:
            self.failure(error)

    def _on_log(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def close(self) -> None:
        with self._checkpointing:
            if self._closed:
                return
            self._closed = True
            if self._searcher is not None:
                self._searcher.interrupt()
                with self._searching:
                    self._searcher.close()
            if self.writer is not None:
                self.writer.set_wal_hook(None)
            for connection in (self._checkpointer, self.reader, self.writer):
                if connection is not None:
                    connection.close()
            if self._opened.lock is not None:
                self._opened.lock.release()

    def failure(self, error: apsw.Error) -> AtollError:
        """What an error of SQLite means, to be raised."""
        if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC:
            self._stop_writing()
            return Indefinite(f"{self.refusal}. This write may have happened", database=str(self.database))
        if isinstance(error, sqlite_database.UNWRITABLE):
            return sqlite_database.unwritable(self.database, error)
        if isinstance(error, sqlite_database.CORRUPT):
            return sqlite_database.corrupt(self.database, error)
        if isinstance(error, apsw.ConstraintError):
            return StoreCorrupt(
                f"{self.database} refused a row that contradicts what it holds ({error}); nothing was "
                "changed: two nodes may have written as one region",
                database=str(self.database),
            )
        return StoreError(f"{self.database}: {error}", database=str(self.database))

    def _stop_writing(self) -> None:
        """After a failed fsync nobody knows what the disk holds, and the next one would not tell.

        The kernel forgets the pages that it failed to write. So the log stays as it is, with all that was acknowledged.
        Nothing is written over it, and no checkpoint discards it, until recovery has read it.
        """
        self.refusal = (
            f"{self.database} takes no writes since an fsync failed: check the disk, then restart the region"
        )
        for connection in (self.writer, self.reader, self._checkpointer):
            if connection is not None:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


_OPEN: WeakSet[Connections] = WeakSet()
_INHERITED: list[apsw.Connection] = []


def _after_fork() -> None:
    for each in _OPEN:
        each._forked()


os.register_at_fork(after_in_child=_after_fork)
