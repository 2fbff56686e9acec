"""`atoll import` and `atoll export`: documents of one collection from a file, and into one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from atoll.cli.progress import progress
from atoll.cli.terminal import ConfigOption, JsonOption, command, print_json, tell
from atoll.store.collector import collect_rarely

if TYPE_CHECKING:
    from atoll.bulk.exporting import ExportReport
    from atoll.bulk.importing import ImportReport

CollectionArgument = Annotated[str, typer.Argument(help="As it is called in URLs, such as profile.")]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="jsonl, csv, parquet or copy, where the name does not say it.")
]
DelimiterOption = Annotated[str, typer.Option("--delimiter", help="Between the cells of CSV.")]
CheckpointOption = Annotated[
    str | None,
    typer.Option("--checkpoint", help="Where it is kept how far the run has come; beside FILE by default."),
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Begin anew, whatever an earlier run has done.")
]


@command
def import_(
    *,
    collection: CollectionArgument,
    file: Annotated[
        str, typer.Argument(help=".jsonl, .csv or .parquet, also .gz or .zst after it; - is stdin.")
    ],
    config: ConfigOption = "atoll.toml",
    region: Annotated[
        str | None,
        typer.Option("--region", "-r", help="Takes the rows that no region owns; else the quickest."),
    ] = None,
    format: FormatOption = None,
    key: Annotated[str, typer.Option("--key", help="The column or member that names each document.")] = "key",
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="A column or member to leave out; may be repeated.")
    ] = None,
    delimiter: DelimiterOption = ",",
    backslash: Annotated[
        bool, typer.Option("--backslash", help="In quoted cells of CSV a backslash escapes, as Spark writes.")
    ] = False,
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option("--on-error", help="Stop at a bad row, or put it aside.")
    ] = "stop",
    rejects: Annotated[
        str | None,
        typer.Option("--rejects", help="Where `skip` puts bad rows; FILE.rejects.jsonl by default."),
    ] = None,
    chunk: Annotated[int, typer.Option("--chunk", help="Rows in one batch.")] = 500,
    checkpoint: CheckpointOption = None,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put the rows of a file into a collection; the same command again goes on where a run ended."""
    from atoll.bulk.importing import ImportOptions, import_file
    from atoll.cli.regions import open_application

    collect_rarely()
    settings, application = open_application(config)
    options = ImportOptions(
        collection=collection,
        file=file,
        region=region,
        format=format,
        key=key,
        ignored=tuple(ignore or ()),
        delimiter=delimiter,
        backslash=backslash,
        on_error=on_error,
        rejects=rejects,
        chunk_rows=chunk,
        checkpoint=checkpoint,
        restart=restart,
    )
    started_s = time.monotonic()
    with progress(f"importing {collection}") as report:
        found = import_file(settings, application, options, report)
    _tell_import(collection, file, found, time.monotonic() - started_s, as_json)


def _tell_import(collection: str, file: str, found: ImportReport, spent_s: float, as_json: bool) -> None:
    state = found.state
    summary: dict[str, Any] = {
        "collection": collection,
        "file": file,
        "region": state.region,
        "rows": state.rows,
        "rejected": state.rejected,
        "rejects": str(found.rejects) if state.rejected and found.rejects else None,
        "resumed_at": found.resumed_at,
        "already_imported": found.already,
        "checkpoint": None if found.checkpoint is None else str(found.checkpoint),
        "seconds": round(spent_s, 3),
    }
    if as_json:
        print_json(summary)
        return
    if found.already:
        typer.echo(f"{file} was imported before: {state.rows:,} rows. --restart puts them again.")
        return
    rate = (state.rows - found.resumed_at) / max(spent_s, 0.001)
    since = f", of them {found.resumed_at:,} by an earlier run" if found.resumed_at else ""
    typer.echo(f"{state.rows:,} rows are in {collection}{since} ({spent_s:.1f} s, {rate:,.0f} rows/s)")
    if state.rejected:
        tell(f"{state.rejected:,} rows were put aside in {found.rejects}")


@command
def export(
    *,
    collection: CollectionArgument,
    file: Annotated[
        str, typer.Argument(help=".jsonl, .csv or .parquet, also .gz or .zst after it; - is stdout.")
    ],
    config: ConfigOption = "atoll.toml",
    region: Annotated[
        str | None, typer.Option("--region", "-r", help="Only from this region; else the quickest.")
    ] = None,
    format: FormatOption = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys that begin so.")] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="field:op:value; all that are given must be met.")
    ] = None,
    delimiter: DelimiterOption = ",",
    checkpoint: CheckpointOption = None,
    restart: RestartOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a collection's documents into a file; the same command again goes on where a run ended."""
    from atoll.bulk.exporting import ExportOptions, export_file
    from atoll.cli.regions import open_application
    from atoll.errors import InvalidOperation

    collect_rarely()
    settings, application = open_application(config)
    if as_json and file == "-":
        raise InvalidOperation("stdout cannot take both the export and its summary; give a file with --json")
    options = ExportOptions(
        collection=collection,
        file=file,
        region=region,
        format=format,
        prefix=prefix,
        where=tuple(where or ()),
        delimiter=delimiter,
        checkpoint=checkpoint,
        restart=restart,
        force=force,
    )
    started_s = time.monotonic()
    with progress(f"exporting {collection}") as report:
        found = export_file(settings, application, options, report)
    _tell_export(collection, file, found, time.monotonic() - started_s, as_json)


def _tell_export(collection: str, file: str, found: ExportReport, spent_s: float, as_json: bool) -> None:
    state = found.state
    if as_json:
        print_json(
            {
                "collection": collection,
                "file": file,
                "region": state.region,
                "rows": state.rows,
                "bytes": found.size_bytes,
                "token_from": state.token_from,
                "token": state.token,
                "degraded": state.degraded,
                "resumed_at": found.resumed_at,
                "seconds": round(spent_s, 3),
            }
        )
        return
    tell(f"{state.rows:,} documents of {collection}, {found.size_bytes:,} bytes, in {spent_s:.1f} s")
    tell(
        f"everything up to {state.token_from} is in it; /v1/changes?cursor={state.token_from} tells what came since"
    )
