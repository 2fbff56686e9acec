"""A whole export: pages in key order under one session, so that no page is older than the one before.

Each document is there once, as it was when its page was read: everything that `token_from` says had happened, or
newer. The change feed from there brings whatever the file may have missed. A run goes on after `kill -9`
where its checkpoint stands; the file gets its name when it is whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from atoll.bulk.checkpoint import Checkpoint, checkpoint_of, differing
from atoll.bulk.files import Compression, check_delimiter, compressed, kind_of, open_input
from atoll.bulk.importing import CLIENT
from atoll.bulk.parquet import write_parquet
from atoll.bulk.reading import Document
from atoll.bulk.writing import Writer, csv_writer, documents_in, json_lines_writer
from atoll.client import Database, connect
from atoll.client.calls import Condition
from atoll.config.config import Config
from atoll.errors import InvalidOperation, StoreUnwritable, TooLarge
from atoll.schema import Application, CollectionSchema
from atoll.schema.bounds import PAGE_BYTES
from atoll.store.exclusive import sync

_PAGE_ROWS = 1000
"""At most; fewer of larger documents, so that a page is about a block."""
_FIRST_ROWS = 100
"""Before it is known how large they are."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What `atoll export` is asked for."""

    collection: str
    file: str
    region: str | None = None
    format: str | None = None
    prefix: str = ""
    where: tuple[str, ...] = ()
    delimiter: str = ","
    checkpoint: str | None = None
    restart: bool = False
    force: bool = False

    def conditions(self) -> list[Condition]:
        return [condition_of(text) for text in self.where]


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
class ExportReport:
    state: ExportState
    resumed_at: int
    size_bytes: int


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


def _open_part(path: Path, state: ExportState, compression: Compression | None) -> Output:
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
class _Export:
    """One run, from the checkpoint to the last page."""

    schema: CollectionSchema
    options: ExportOptions
    writer: Writer
    output: Output
    checkpoint: Checkpoint | None
    state: ExportState
    tell: Callable[[int], None]
    _waiting: list[Document] = field(default_factory=list)

    async def run(self, database: Database) -> None:
        """Raises what the regions answer; what is in the file by then is in the checkpoint."""
        state, model = self.state, self.schema.model
        prefix, where = self.options.prefix, self.options.conditions()
        session = database.session(state.token)
        if state.token_from is None:
            # A page's own token may tell of what was written while it was read; all pages after this have this one's.
            await session.texts(model, limit=1)
            state.token_from = session.token
        if state.size_bytes == 0:
            state.size_bytes += self.output.write(self.writer.head)
        cursor, size, rows = state.cursor, 0, _FIRST_ROWS
        while not state.read:
            try:
                page = await session.texts(model, prefix=prefix, where=where, limit=rows, cursor=cursor)
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
                rows = max(1, min(_PAGE_ROWS, len(page.items) * PAGE_BYTES // page_bytes))
            state.region = session.region
            state.degraded = session.degraded or state.degraded
            if cursor is None or size >= PAGE_BYTES:
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
            self.checkpoint.save(state)


def export_file(
    config: Config, application: Application, options: ExportOptions, tell: Callable[[int], None]
) -> ExportReport:
    """Raises RequestErrors, StoreUnwritable, and what the regions answer."""
    schema = application.collection(options.collection)
    kind = kind_of(options.file, options.format)
    if kind.format == "copy":
        raise InvalidOperation(
            "the text format of COPY is only imported; export --format csv, which COPY reads"
        )
    check_delimiter(options.delimiter)
    options.conditions()
    about = {
        "collection": schema.name,
        "deployment": config.name,
        "format": [kind.format, kind.compression],
        "prefix": options.prefix,
        "where": list(options.where),
        "delimiter": options.delimiter,
    }
    writer = csv_writer(schema, options.delimiter) if kind.format == "csv" else json_lines_writer()
    suffix = f"{config.name}.{schema.name}.export"
    with checkpoint_of(options.checkpoint, options.file, suffix, restart=options.restart) as checkpoint:
        state = ExportState(about) if checkpoint is None else _resumed(checkpoint, about)
        resumed_at = state.rows

        def read(output: Output) -> None:
            run = _Export(schema, options, writer, output, checkpoint, state, tell)
            asyncio.run(_read(config, options.region, run))

        if checkpoint is None:
            read(Output(sys.stdout.buffer, kind.compression, durable=False))
            return ExportReport(state, 0, state.size_bytes)
        target, part = Path(options.file), Path(f"{options.file}.part")
        if target.exists() and not options.force and checkpoint.state is None:
            raise InvalidOperation(f"{target}: already exists; --force replaces it")
        if not state.read or part.exists():
            output = _open_part(part, state, "zst" if kind.format == "parquet" else kind.compression)
            with output.file:
                read(output)
            whole = _as_parquet(part, schema) if kind.format == "parquet" else part
            os.replace(whole, target)
            sync(target.parent)
        part.unlink(missing_ok=True)
        checkpoint.remove()
        return ExportReport(state, resumed_at, target.stat().st_size)


async def _read(config: Config, region: str | None, run: _Export) -> None:
    if region is not None:
        config = dataclasses.replace(config, regions=(config.region(region),))
    async with connect(config, options=CLIENT) as database:
        await run.run(database)


def _as_parquet(part: Path, schema: CollectionSchema) -> Path:
    """Parquet cannot be gone on with once it was cut off, so its rows are gathered first."""
    made = part.with_name(f"{part.name}.parquet")
    with open_input(str(part), "zst") as source:
        write_parquet(made, schema, documents_in(source.stream))
    sync(made)
    return made


def condition_of(text: str) -> Condition:
    """`field:op:value`, as the HTTP interface has it. Raises InvalidOperation."""
    field, first, rest = text.partition(":")
    operator, second, value = rest.partition(":")
    if not (field and first and second):
        raise InvalidOperation(f"--where takes field:op:value, such as stock:lt:10, not {text!r}")
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return field, operator, value
    return field, operator, msgspec.Raw(value.encode())  # read by whoever knows the field


def _resumed(checkpoint: Checkpoint, about: dict[str, Any]) -> ExportState:
    """Where the last run stood, or the start. Raises InvalidOperation where it wrote something else."""
    state = checkpoint.saved(ExportState, "export") or ExportState(about)
    if state.about != about:
        raise InvalidOperation(
            f"{checkpoint.path}: an export of something else is unfinished ({differing(about, state.about)} changed);"
            " finish it with its own options, or give --restart"
        )
    return state
