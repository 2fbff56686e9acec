"""A whole import: rows become batches, each of which counts once, whatever ends the run and however often.

A run has a random name, made durable before anything is sent, and cuts the file into chunks that depend on the
file alone. The idempotency key of a batch is run and chunk. So a batch that was in flight when a run died gets its
earlier answer when it is sent again. All batches go to one region (or to each row's owner). The checkpoint names
it, because only that region knows the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from atoll.bulk.checkpoint import Checkpoint, checkpoint_of, differing
from atoll.bulk.files import STREAM, FileKind, check_delimiter, kind_of, open_input
from atoll.bulk.ordered import each_in_order
from atoll.bulk.parquet import ParquetRows
from atoll.bulk.reading import (
    Document,
    Layout,
    Position,
    Reader,
    Row,
    copied_rows,
    csv_rows,
    document_of,
    json_rows,
    reject_line,
    told,
)
from atoll.client import ClientOptions, Database, connect
from atoll.config.config import Config
from atoll.errors import (
    AtollError,
    IdempotencyKeyReused,
    InvalidOperation,
    NotFound,
    RequestError,
    StoreUnwritable,
    UnknownCollection,
)
from atoll.ownership.ownership import owner_by_declaration
from atoll.schema import Application, CollectionSchema
from atoll.schema.bounds import CHUNK_BYTES, ENVELOPE_BYTES
from atoll.schema.placement import Everywhere, HomeRegion

CLIENT = ClientOptions(timeout_s=60.0, write_timeout_s=30.0)
"""Batches are large, and a region that is busy with them answers late."""

CHUNK_ROWS = 500
"""Rows in a chunk; at most `BATCH_WRITES`. More block a region's other writers longer."""
_WINDOW = 4
"""Chunks under way at once."""
_SINGLY = 64
"""Documents of a strong collection that are on their way at once, of each chunk."""
_SAVE_S = 1.0
"""How often the checkpoint is written; what came after it is sent again after a crash."""
_HEAD_BYTES = 1 << 16

Tell = Callable[[int, int, int | None, str], None]
"""`tell(rows, done, total, more)`: done are bytes of the file, in Parquet rows; `more` is about rejects."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What `atoll import` is asked for."""

    collection: str
    file: str
    region: str | None = None
    format: str | None = None
    key: str = "key"
    ignored: tuple[str, ...] = ()
    delimiter: str = ","
    backslash: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    """What a bad row does: end the run, or go into the reject file."""
    rejects: str | None = None
    chunk_rows: int = CHUNK_ROWS
    checkpoint: str | None = None
    restart: bool = False

    def layout(self, schema: CollectionSchema) -> Layout:
        # The longest way to write a document in JSON escapes every byte.
        most = 6 * schema.limits.document_bytes + ENVELOPE_BYTES
        return Layout(schema, self.key, frozenset(self.ignored), most, self.delimiter, self.backslash)


@dataclass(frozen=True, slots=True)
class ImportReport:
    state: ImportState
    resumed_at: int
    """Rows that earlier runs had put."""
    already: bool
    """The file was imported before, and nothing was done."""
    rejects: Path | None
    checkpoint: Path | None


class ImportState(msgspec.Struct):
    """What the checkpoint holds."""

    run: str
    about: dict[str, Any]
    """The file and the options that shape its chunks; another run may only go on if they are equal."""
    region: str
    """Takes what any region may take."""
    position: Position = Position()
    chunk: int = 0
    """The next one."""
    rows: int = 0
    """Documents written."""
    rejected: int = 0
    rejects_bytes: int = 0
    """Length of the reject file."""
    halved: list[str] = []
    """Batches that a region refused as a whole, so that their halves were sent."""
    done: bool = False


@dataclass(slots=True)
class _Chunk:
    number: int
    end: Position
    """Of its last row."""
    good: list[tuple[Row, Document]] = field(default_factory=list)
    bad: list[tuple[Row, str | None, RequestError]] = field(default_factory=list)
    size_bytes: int = 0
    count: int = 0
    keys: set[str] = field(default_factory=set)

    def add(self, layout: Layout, row: Row) -> None:
        self.end = row.end
        self.count += 1
        self.size_bytes += row.size_bytes
        try:
            document = document_of(layout, row)
        except RequestError as error:
            self.bad.append((row, None, error))
            return
        self.good.append((row, document))
        self.keys.add(document[0])


@dataclass
class _Import:
    """One run, from the checkpoint to the end of the file."""

    _config: Config
    _options: ImportOptions
    _schema: CollectionSchema
    _reader: Reader
    _rejects: Path | None
    _checkpoint: Checkpoint | None
    """Without one the run cannot be resumed."""
    state: ImportState
    _tell: Callable[[], None]
    _saved_s: float = field(default_factory=time.monotonic)
    _databases: dict[str, Database] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _underway: deque[tuple[_Chunk, asyncio.Task[None]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        policy = self._schema.policy
        self._layout = self._options.layout(self._schema)
        self._by_content = isinstance(policy.placement, HomeRegion)
        self._owned = not isinstance(policy.placement, Everywhere)
        self._started = self.state.chunk > 0 or bool(self.state.halved)

    async def run(self) -> None:
        """Raises InvalidDocument naming file, line and field under `stop`, and what a region answers.

        What was acknowledged by then is in the checkpoint.
        """
        self._save()
        self._open_rejects()
        async with self._stack:
            try:
                for chunk in self._chunks():
                    await self._room_for(chunk)
                    if chunk.bad and self._options.on_error == "stop":
                        row, _, problem = chunk.bad[0]
                        raise told(self._options.file, row, problem)
                    self._started = True
                    self._underway.append((chunk, asyncio.create_task(self._send(chunk))))
                while self._underway:
                    await self._settle()
                self.state.done = True
            finally:
                await self._abandon()
                if self._started or self.state.done:
                    self._save()
                elif self._checkpoint is not None:
                    self._checkpoint.forget()  # nothing was sent: there is nothing to go on with

    def _chunks(self) -> Iterator[_Chunk]:
        options, number = self._options, self.state.chunk
        chunk = _Chunk(number, self.state.position)
        for row in self._reader(self.state.position):
            chunk.add(self._layout, row)
            if chunk.count >= options.chunk_rows or chunk.size_bytes >= CHUNK_BYTES:
                yield chunk
                number += 1
                chunk = _Chunk(number, chunk.end)
        if chunk.count:
            yield chunk

    async def _room_for(self, chunk: _Chunk) -> None:
        """Two batches under way may arrive in any order, so a key is only in one of them."""
        while len(self._underway) >= _WINDOW or any(
            not chunk.keys.isdisjoint(other.keys) for other, _ in self._underway
        ):
            await self._settle()
        await asyncio.sleep(0)  # the others are sent while the next chunk is read

    async def _settle(self) -> None:
        """Wait for the oldest chunk, and take note of it."""
        chunk, task = self._underway[0]
        await task
        self._underway.popleft()
        self._reject(chunk)
        state = self.state
        state.position, state.chunk = chunk.end, chunk.number + 1
        state.rows += len(chunk.good)
        state.rejected += len(chunk.bad)
        prefix = f"{chunk.number}/"
        state.halved = [key for key in state.halved if not key.startswith(prefix)]
        if time.monotonic() - self._saved_s >= _SAVE_S:
            self._save()
        self._tell()

    async def _abandon(self) -> None:
        """After a failure: what was sent before is still waited for, and taken note of in order."""
        await asyncio.gather(*(task for _, task in self._underway), return_exceptions=True)
        while self._underway and self._underway[0][1].exception() is None:
            await self._settle()
        self._underway.clear()

    # -- sending ---------------------------------------------------------------------------------------

    async def _send(self, chunk: _Chunk) -> None:
        if self._schema.policy.by_quorum:
            await self._put_singly(chunk)
            return
        groups = self._by_owner(chunk) if self._owned else {self.state.region: chunk.good}
        for owner in sorted(groups):
            if groups[owner]:
                await self._put(chunk, owner, groups[owner], f"{chunk.number}/{owner}")

    async def _put_singly(self, chunk: _Chunk) -> None:
        """Each document has an order of its own: a batch cannot hold two."""
        region, name = self.state.region, f"{chunk.number}/{self.state.region}"

        async def put(number: int, item: tuple[Row, Document]) -> None:
            await self._put(chunk, region, [item], f"{name}.{number}")

        await each_in_order(put, chunk.good, lambda item: item[1][0], at_once=_SINGLY)

    def _by_owner(self, chunk: _Chunk) -> dict[str, list[tuple[Row, Document]]]:
        groups: dict[str, list[tuple[Row, Document]]] = {}
        fitting: list[tuple[Row, Document]] = []
        for item in chunk.good:
            try:
                owner = self._owner(*item[1])
            except RequestError as error:
                self._refuse(chunk, item, error)
                continue
            fitting.append(item)
            groups.setdefault(owner, []).append(item)
        chunk.good = fitting
        return groups

    def _owner(self, key: str, text: bytes) -> str:
        document = msgspec.json.decode(text) if self._by_content else None
        owner = owner_by_declaration(self._schema, self._config.region_names, key, document)
        return owner or self.state.region

    async def _put(self, chunk: _Chunk, owner: str, items: list[tuple[Row, Document]], name: str) -> None:
        """One batch; where a region refuses it, its halves, down to the row that it will not have."""
        if name not in self.state.halved:
            database = await self._database(owner)
            try:
                await database.put_many(
                    self._schema.model,
                    [document for _, document in items],
                    idempotency_key=f"import-{self.state.run}-{name}",
                )
                return
            except RequestError as error:
                if isinstance(error, UnknownCollection | NotFound | IdempotencyKeyReused):
                    raise
                if len(items) == 1:
                    self._refuse(chunk, items[0], error)
                    chunk.good = [item for item in chunk.good if item is not items[0]]
                    return
            self.state.halved.append(name)
            self._save()
        middle = len(items) // 2
        await self._put(chunk, owner, items[:middle], f"{name}.0")
        await self._put(chunk, owner, items[middle:], f"{name}.1")

    def _refuse(self, chunk: _Chunk, item: tuple[Row, Document], error: RequestError) -> None:
        row, (key, _) = item
        if self._options.on_error == "stop":
            raise told(self._options.file, row, error)
        chunk.bad.append((row, key, error))

    async def _database(self, region: str) -> Database:
        """A client of this region alone: what it may have done, no other could tell."""
        found = self._databases.get(region)
        if found is None:
            alone = dataclasses.replace(self._config, regions=(self._config.region(region),))
            found = await self._stack.enter_async_context(connect(alone, options=CLIENT))
            self._databases[region] = found
        return found

    # -- what is kept ----------------------------------------------------------------------------------

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        if self._checkpoint is not None:
            self._checkpoint.save(self.state)

    def _open_rejects(self) -> None:
        """Drop what the last run wrote after its checkpoint: it comes again."""
        if self._rejects is None:
            return
        try:
            handle = os.open(self._rejects, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "rb+") as file:
                file.truncate(self.state.rejects_bytes)
        except OSError as error:
            raise InvalidOperation(
                f"{self._rejects}: the reject file cannot be written: {error.strerror}"
            ) from None

    def _reject(self, chunk: _Chunk) -> None:
        if not chunk.bad or self._rejects is None:
            return
        lines = b"".join(
            reject_line(row, key, error)
            for row, key, error in sorted(chunk.bad, key=lambda item: item[0].place)
        )
        try:
            with self._rejects.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnwritable(f"{self._rejects}: cannot be written: {error.strerror}") from None
        self.state.rejects_bytes += len(lines)


def import_file(config: Config, application: Application, options: ImportOptions, tell: Tell) -> ImportReport:
    """Raises RequestErrors, also for what the file holds, and what the regions answer."""
    schema = application.collection(options.collection)
    kind = kind_of(options.file, options.format)
    check_delimiter(options.delimiter)
    if not 1 <= options.chunk_rows <= 1000:
        raise InvalidOperation(f"a chunk holds 1 to 1000 rows, not {options.chunk_rows}")
    about = _about(config, schema, options, kind)
    rejects = _rejects_of(options)
    suffix = f"{config.name}.{schema.name}.import"
    with (
        _opened(options, kind, options.layout(schema)) as (reader, progress),
        checkpoint_of(options.checkpoint, options.file, suffix, restart=options.restart) as checkpoint,
    ):
        state = None if checkpoint is None else _resumed(checkpoint, about)
        if state is None:
            _check_unused(rejects)
            state = ImportState(uuid.uuid4().hex, about, asyncio.run(_region_of(config, options.region)))
        elif options.region not in (None, state.region):
            raise InvalidOperation(
                f"this import writes to {state.region}, which remembers its batches; --restart imports all rows"
                f" again, in {options.region}"
            )
        resumed_at, already = state.rows, state.done

        def told() -> None:
            tell(
                state.rows,
                *progress(state.position),
                f", {state.rejected:,} put aside" if state.rejected else "",
            )

        if not already:
            run = _Import(config, options, schema, reader, rejects, checkpoint, state, told)
            try:
                asyncio.run(run.run())
            except AtollError as error:
                if checkpoint is None or not state.rows:
                    raise
                more = f" ({state.rows:,} rows are in; the same command goes on from there)"
                raise type(error)(error.message + more, **error.details) from error
        path = None if checkpoint is None else checkpoint.path
        return ImportReport(state, resumed_at, already, rejects, path)


@contextmanager
def _opened(
    options: ImportOptions, kind: FileKind, layout: Layout
) -> Iterator[tuple[Reader, Callable[[Position], tuple[int, int | None]]]]:
    """The file as rows, and how much of how much was read."""
    if kind.format == "parquet":
        with contextlib.closing(ParquetRows(options.file, layout)) as rows:
            yield rows.rows, lambda at: (at.place, rows.count)
        return
    with open_input(options.file, kind.compression) as source:
        rows_of = {"jsonl": json_rows, "csv": csv_rows, "copy": copied_rows}[kind.format]
        yield partial(rows_of, source, layout), lambda _: (source.tell(), source.size_bytes)


def _about(
    config: Config, schema: CollectionSchema, options: ImportOptions, kind: FileKind
) -> dict[str, Any]:
    """Whatever shapes the chunks, so that a batch that is sent again is the same."""
    described = msgspec.json.encode(schema.describe(), enc_hook=repr)
    return {
        "file": _identity(options.file),
        "collection": schema.name,
        "deployment": config.name,
        "declaration": hashlib.sha256(described).hexdigest()[:16],
        "format": kind.format,
        "key": options.key,
        "ignored": sorted(options.ignored),
        "delimiter": options.delimiter,
        "backslash": options.backslash,
        "chunk": [options.chunk_rows, CHUNK_BYTES],
    }


def _identity(file: str) -> Any:
    """Size, time of the last change and a digest of the beginning. Raises InvalidOperation."""
    if file == STREAM:
        return STREAM
    try:
        with Path(file).open("rb") as opened:
            found = os.fstat(opened.fileno())
            head = hashlib.sha256(opened.read(_HEAD_BYTES)).hexdigest()[:16]
    except OSError as error:
        raise InvalidOperation(f"{file}: cannot be read: {error.strerror}") from None
    return [found.st_size, found.st_mtime_ns, head]


def _rejects_of(options: ImportOptions) -> Path | None:
    if options.on_error == "stop":
        if options.rejects is not None:
            raise InvalidOperation("--rejects says where bad rows go; it belongs to --on-error skip")
        return None
    if options.rejects is not None:
        return Path(options.rejects)
    if options.file == STREAM:
        raise InvalidOperation("bad rows of stdin need a file: give --rejects FILE with --on-error skip")
    return Path(f"{options.file}.rejects.jsonl")


def _check_unused(rejects: Path | None) -> None:
    if rejects is not None and rejects.exists() and rejects.stat().st_size:
        raise InvalidOperation(
            f"{rejects}: already exists; move it away, or name another place with --rejects"
        )


async def _region_of(config: Config, given: str | None) -> str:
    """The region that is named, or the quickest to answer."""
    if given is not None:
        return config.region(given).name
    async with connect(config, options=CLIENT) as database:
        return database.regions[0]


def _resumed(checkpoint: Checkpoint, about: dict[str, Any]) -> ImportState | None:
    """Where the last run stood; None when there was none. Raises InvalidOperation where it read something else."""
    state = checkpoint.saved(ImportState, "import")
    if state is None or state.about == about:
        return state
    if state.done:
        return None
    raise InvalidOperation(
        f"{checkpoint.path}: an import stopped at line {state.position.place}, and since then"
        f" {differing(about, state.about)} changed; --restart imports all rows again"
    )
