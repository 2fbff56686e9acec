"""An export from the names that a person gives: the file opened, an earlier run found, options checked."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.bulk import exporting
from atoll.bulk.checkpoint import Checkpoint, checkpoint_of
from atoll.bulk.exporting import Export, ExportState, Output, Wanted
from atoll.bulk.files import STREAM, check_delimiter, kind_of, open_input
from atoll.bulk.importing import CLIENT
from atoll.bulk.parquet import write_parquet
from atoll.bulk.writing import CsvWriter, JsonLinesWriter, Writer, documents_in
from atoll.client import connect
from atoll.client.calls import Condition
from atoll.config.config import Config
from atoll.errors import InvalidOperation
from atoll.schema import Application, CollectionSchema


@dataclass(frozen=True, slots=True)
class ExportWish:
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


@dataclass(frozen=True, slots=True)
class ExportReport:
    state: ExportState
    resumed_at: int
    file: str
    size_bytes: int


def export_file(
    config: Config, application: Application, wish: ExportWish, tell: Callable[[int], None]
) -> ExportReport:
    """Raises RequestErrors, StoreUnwritable, and what the regions answer."""
    schema = application.collection(wish.collection)
    kind = kind_of(wish.file, wish.format)
    check_delimiter(wish.delimiter)
    wanted = Wanted(schema, wish.prefix, tuple(condition_of(text) for text in wish.where))
    about = {
        "collection": schema.name,
        "deployment": config.name,
        "format": [kind.format, kind.compression],
        "prefix": wish.prefix,
        "where": list(wish.where),
        "delimiter": wish.delimiter,
    }
    with checkpoint_of(
        wish.checkpoint, wish.file, f"{config.name}.{schema.name}.export", restart=wish.restart
    ) as checkpoint:
        state = ExportState(about) if checkpoint is None else exporting.resumed_export(checkpoint, about)
        resumed_at = state.rows

        def read(output: Output, checkpoint: Checkpoint | None) -> None:
            asyncio.run(_read(config, wish, Export(wanted, writer, output, checkpoint, state, tell)))

        writer: Writer = CsvWriter(schema, wish.delimiter) if kind.format == "csv" else JsonLinesWriter()
        if checkpoint is None:
            output = Output(sys.stdout.buffer, kind.compression, durable=False)
            read(output, None)
            return ExportReport(state, 0, STREAM, state.size_bytes)
        target, part = Path(wish.file), Path(f"{wish.file}.part")
        if target.exists() and not wish.force and checkpoint.state is None:
            raise InvalidOperation(f"{target}: already exists; --force replaces it")
        if not state.read or part.exists():
            output = exporting.open_part(part, state, "zst" if kind.format == "parquet" else kind.compression)
            with output.file:
                read(output, checkpoint)
            if kind.format == "parquet":
                part = _as_parquet(part, schema)
            exporting.put_in_place(part, target)
        Path(f"{wish.file}.part").unlink(missing_ok=True)
        checkpoint.remove()
        return ExportReport(state, resumed_at, wish.file, target.stat().st_size)


async def _read(config: Config, wish: ExportWish, run: Export) -> None:
    if wish.region is not None:
        config = dataclasses.replace(config, regions=(config.region(wish.region),))
    async with connect(config, options=CLIENT) as database:
        await run.run(database)


def _as_parquet(part: Path, schema: CollectionSchema) -> Path:
    """Parquet cannot be gone on with once it was cut off, so its rows are gathered first."""
    made = part.with_name(f"{part.name}.parquet")
    source = open_input(str(part), "zst")
    try:
        write_parquet(made, schema, documents_in(source.stream))
    finally:
        source.close()
    with made.open("rb+") as file:
        os.fsync(file.fileno())
    return made


def condition_of(text: str) -> Condition:
    """`field:op:value`, as the HTTP interface has it. Raises InvalidOperation."""
    field, first, rest = text.partition(":")
    operator, second, value = rest.partition(":")
    if not (field and first and second):
        raise InvalidOperation(f"--where takes field:op:value, such as stock:lt:10, not {text!r}")
    try:
        return field, operator, msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return field, operator, value
