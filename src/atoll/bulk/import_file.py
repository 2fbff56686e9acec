"""An import from the names that a person gives: the file opened, an earlier run found, options checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from atoll.bulk import importing
from atoll.bulk.checkpoint import checkpoint_of
from atoll.bulk.files import STREAM, FileKind, Input, check_delimiter, kind_of, open_input
from atoll.bulk.importing import CLIENT, Import, ImportOptions, ImportState
from atoll.bulk.parquet import ParquetRows
from atoll.bulk.reading import CsvRows, JsonLines, Layout, Reader
from atoll.client import connect
from atoll.config.config import Config
from atoll.errors import AtollError, InvalidOperation
from atoll.schema import Application, CollectionSchema

_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ImportWish:
    """What `atoll import` is asked for."""

    collection: str
    file: str
    region: str | None = None
    format: str | None = None
    key: str = "key"
    ignored: tuple[str, ...] = ()
    delimiter: str = ","
    rejects: str | None = None
    checkpoint: str | None = None
    restart: bool = False
    options: ImportOptions = field(default_factory=ImportOptions)


@dataclass(frozen=True, slots=True)
class ImportReport:
    state: ImportState
    resumed_at: int
    """Rows that earlier runs had put."""
    already: bool
    """The file was imported before, and nothing was done."""
    rejects: Path | None
    checkpoint: Path | None


@dataclass(frozen=True, slots=True)
class ImportProgress:
    rows: int
    rejected: int
    done: int
    """Of `total`: bytes of the file, in Parquet rows."""
    total: int | None


def import_file(
    config: Config, application: Application, wish: ImportWish, tell: Callable[[ImportProgress], None]
) -> ImportReport:
    """Raises RequestErrors, also for what the file holds, and what the regions answer."""
    schema = application.collection(wish.collection)
    kind = kind_of(wish.file, wish.format)
    check_delimiter(wish.delimiter)
    if not 1 <= wish.options.chunk_rows <= 1000:
        raise InvalidOperation(f"a chunk holds 1 to 1000 rows, not {wish.options.chunk_rows}")
    about = _about_import(config, schema, wish, kind)
    rejects = _rejects_of(wish)
    with (
        _opened(wish, kind, _layout(schema, wish)) as (reader, progress),
        checkpoint_of(
            wish.checkpoint, wish.file, f"{config.name}.{schema.name}.import", restart=wish.restart
        ) as checkpoint,
    ):
        state = None if checkpoint is None else importing.resumed_state(checkpoint, about)
        if state is None:
            _check_unused(rejects)
            state = importing.new_state(about, asyncio.run(_region_of(config, wish.region)))
        elif wish.region not in (None, state.region):
            raise InvalidOperation(
                f"this import writes to {state.region}, which remembers its batches; --restart imports all rows"
                f" again, in {wish.region}"
            )
        path = None if checkpoint is None else checkpoint.path
        resumed_at, already = state.rows, state.done
        if not already:

            def told(progressed: importing.Progress) -> None:
                done, total = progress()
                tell(ImportProgress(progressed.rows, progressed.rejected, done, total))

            run = Import(
                config,
                _layout(schema, wish),
                reader,
                name=wish.file,
                checkpoint=checkpoint,
                state=state,
                options=replace(wish.options, rejects=rejects),
                tell=told,
            )
            try:
                asyncio.run(run.run())
            except AtollError as error:
                if checkpoint is None or not state.rows:
                    raise
                more = f" ({state.rows:,} rows are in; the same command goes on from there)"
                raise type(error)(error.message + more, **error.details) from error
        return ImportReport(state, resumed_at, already, rejects, path)


def _layout(schema: CollectionSchema, wish: ImportWish) -> Layout:
    # The longest way to write a document in JSON escapes every byte.
    most = 6 * schema.limits.document_bytes + (1 << 16)
    return Layout(schema, wish.key, frozenset(wish.ignored), most, wish.delimiter)


@contextmanager
def _opened(
    wish: ImportWish, kind: FileKind, layout: Layout
) -> Iterator[tuple[Reader, Callable[[], tuple[int, int | None]]]]:
    """The file as rows, and how much of how much was read."""
    if kind.format == "parquet":
        rows = ParquetRows(wish.file, layout)
        try:
            yield rows, lambda: (rows.position.place, rows.count)
        finally:
            rows.close()
        return
    source: Input = open_input(wish.file, kind.compression)
    try:
        reader = JsonLines(source, layout) if kind.format == "jsonl" else CsvRows(source, layout)
        yield reader, lambda: (source.tell(), source.size_bytes)
    finally:
        source.close()


def _about_import(
    config: Config, schema: CollectionSchema, wish: ImportWish, kind: FileKind
) -> dict[str, Any]:
    """Whatever shapes the chunks, so that a batch that is sent again is the same."""
    described = msgspec.json.encode(schema.describe(), enc_hook=repr)
    return {
        "file": _identity(wish.file),
        "collection": schema.name,
        "deployment": config.name,
        "declaration": hashlib.sha256(described).hexdigest()[:16],
        "format": kind.format,
        "key": wish.key,
        "ignored": sorted(wish.ignored),
        "delimiter": wish.delimiter,
        "chunk": [wish.options.chunk_rows, wish.options.chunk_bytes],
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


def _rejects_of(wish: ImportWish) -> Path | None:
    if wish.options.on_error == "stop":
        if wish.rejects is not None:
            raise InvalidOperation("--rejects says where bad rows go; it belongs to --on-error skip")
        return None
    if wish.rejects is not None:
        return Path(wish.rejects)
    if wish.file == STREAM:
        raise InvalidOperation("bad rows of stdin need a file: give --rejects FILE with --on-error skip")
    return Path(f"{wish.file}.rejects.jsonl")


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
