"""A whole export: pages in key order under one session, so that no page is older than the one before.

Each document is there once, as it was when its page was read: everything that `token_from` says had happened, or
newer. The change feed from there brings whatever the file may have missed. A run goes on after `kill -9`
where its checkpoint stands; the file gets its name when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from atoll.bulk.checkpoint import Checkpoint, sync_folder
from atoll.bulk.documents import Document
from atoll.bulk.files import Compression, compressed
from atoll.bulk.writing import Writer
from atoll.client import Database
from atoll.client.calls import Condition
from atoll.errors import InvalidOperation, StoreUnwritable, TooLarge
from atoll.schema import CollectionSchema

PAGE_ROWS = 1000
"""At most; fewer of larger documents, so that a page is about a block."""
_FIRST_ROWS = 100
"""Before it is known how large they are."""
_BLOCK_BYTES = 4 << 20
"""So much is written, fsynced and noted at a time; compressed, it is a frame of its own."""


class ExportState(msgspec.Struct):
    """What the checkpoint holds."""

    about: dict[str, Any]
    cursor: str | None = None
    rows: int = 0
    size_bytes: int = 0
    """Of the unfinished file."""
    token_from: str | None = None
    """The session's token before the first page: everything it says is in the file."""
    token: str | None = None
    """After the last page."""
    region: str | None = None
    degraded: str | None = None
    read: bool = False
    """All pages are in the file."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which documents."""

    schema: CollectionSchema
    prefix: str = ""
    where: Sequence[Condition] = ()


@dataclass(slots=True)
class Output:
    """Where blocks go: a file that can be gone on with, or a stream."""

    file: BinaryIO
    compression: Compression | None
    durable: bool

    def write(self, block: bytes) -> int:
        """Returns the bytes written. Raises StoreUnwritable."""
        data = compressed(block, self.compression)
        try:
            self.file.write(data)
            self.file.flush()
            if self.durable:
                os.fsync(self.file.fileno())
        except BrokenPipeError:
            raise InvalidOperation("the reader of the export has closed it") from None
        except OSError as error:
            raise StoreUnwritable(f"the export cannot be written: {error.strerror}") from None
        return len(data)


def open_part(path: Path, state: ExportState, compression: Compression | None) -> Output:
    """The unfinished file, cut to what the checkpoint knows. Raises InvalidOperation when it holds less."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = os.fdopen(handle, "rb+")
    except OSError as error:
        raise InvalidOperation(f"{path}: cannot be written: {error.strerror}") from None
    size = os.fstat(file.fileno()).st_size
    if size < state.size_bytes:
        file.close()
        raise InvalidOperation(
            f"{path}: holds {size} bytes, and the checkpoint says {state.size_bytes}; --restart starts over"
        )
    file.truncate(state.size_bytes)
    file.seek(state.size_bytes)
    return Output(file, compression, durable=True)


@dataclass(slots=True)
class Export:
    """One run, from the checkpoint to the last page."""

    wanted: Wanted
    writer: Writer
    output: Output
    checkpoint: Checkpoint | None
    state: ExportState
    tell: Callable[[int], None]
    _waiting: list[Document] = field(default_factory=list)

    async def run(self, database: Database) -> None:
        """Raises what the regions answer; what is in the file by then is in the checkpoint."""
        state, wanted = self.state, self.wanted
        session = database.session(state.token)
        if state.token_from is None:
            # A page's own token may tell of what was written while it was read; all pages after this have this one's.
            await session.texts(wanted.schema.model, limit=1)
            state.token_from = session.token
        if state.size_bytes == 0:
            state.size_bytes += self.output.write(self.writer.head())
        cursor, size, rows = state.cursor, 0, _FIRST_ROWS
        while not state.read:
            try:
                page = await session.texts(
                    wanted.schema.model, prefix=wanted.prefix, where=wanted.where, limit=rows, cursor=cursor
                )
            except TooLarge:
                if rows == 1:
                    raise
                rows = max(1, rows // 8)
                continue
            cursor = page.cursor
            self._waiting += page.items
            page_bytes = sum(len(text) for _, text in page.items)
            size += page_bytes
            if page_bytes:
                rows = max(1, min(PAGE_ROWS, len(page.items) * _BLOCK_BYTES // page_bytes))
            state.region = session.region
            state.degraded = session.degraded or state.degraded
            if cursor is None or size >= _BLOCK_BYTES:
                self._flush(cursor, session.token)
                size = 0
            self.tell(state.rows + len(self._waiting))

    def _flush(self, cursor: str | None, token: str | None) -> None:
        state = self.state
        state.size_bytes += self.output.write(self.writer.block(self._waiting))
        state.rows += len(self._waiting)
        self._waiting = []
        state.cursor, state.token, state.read = cursor, token, cursor is None
        if self.checkpoint is not None:
            self.checkpoint.save(msgspec.to_builtins(state))


def put_in_place(part: Path, target: Path) -> None:
    """Give the whole file its name, durably."""
    os.replace(part, target)
    sync_folder(target.parent)


def resumed_export(checkpoint: Checkpoint, about: dict[str, Any]) -> ExportState:
    """Where the last run stood, or the start. Raises InvalidOperation where it wrote something else."""
    if checkpoint.state is None:
        return ExportState(about)
    try:
        state = msgspec.convert(
            {name: value for name, value in checkpoint.state.items() if name != "version"}, ExportState
        )
    except msgspec.ValidationError as error:
        raise InvalidOperation(f"{checkpoint.path}: is not a checkpoint of an export: {error}") from None
    if state.about != about:
        differing = sorted(name for name in about if about[name] != state.about.get(name))
        raise InvalidOperation(
            f"{checkpoint.path}: an export of something else is unfinished ({', '.join(differing)} changed);"
            " finish it with its own options, or give --restart"
        )
    return state
