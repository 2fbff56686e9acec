"""`atoll backup` and `atoll restore`: one region's whole data in a file, and back from it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.causality.origin import by_region
from atoll.cli.progress import progress
from atoll.cli.terminal import ConfigOption, JsonOption, command, print_json, tell

if TYPE_CHECKING:
    from atoll.backup.archive import Header, Totals


@command
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write; with --verify, to check.")],
    *,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help="Whose data; this machine must hold it.")
    ] = None,
    config: ConfigOption = "atoll.toml",
    verify: Annotated[bool, typer.Option("--verify", help="Read an archive, and say what it holds.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write one region's data into an archive, as of one moment, while the region serves."""
    from atoll.backup import backup as backups
    from atoll.cli.regions import open_config
    from atoll.errors import InvalidOperation

    started_s = time.monotonic()
    if verify:
        with progress(f"reading {file}") as report:
            header, totals = backups.verify(file, report)
        _told(file, totals, "is whole", header.region, started_s=started_s, as_json=as_json, header=header)
        return
    if region is None:
        raise InvalidOperation("--region is required: the region whose data to back up")
    settings, now_ms = open_config(config), time.time_ns() // 1_000_000
    with progress(f"backing up {region}") as report:
        totals = asyncio.run(backups.back_up(settings, region, file, now_ms, report, force=force))
    _told(file, totals, "was written", region, started_s=started_s, as_json=as_json)


@command
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `atoll backup` made.")],
    *,
    region: Annotated[str, typer.Option("--region", "-r", help="The region, which must not run.")],
    config: ConfigOption = "atoll.toml",
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="A peer that is gone for good: do not wait for it; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the data that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a region's data of an archive; started again, it serves once its peers told it what it lacks."""
    from atoll.backup import backup as backups
    from atoll.cli.regions import open_config

    settings, now_ms = open_config(config), time.time_ns() // 1_000_000
    started_s, gone = time.monotonic(), tuple(without or ())
    with progress(f"restoring {region}") as report:
        run = backups.restore(settings, region, file, now_ms, report, gone=gone, force=force)
        totals = asyncio.run(run)
    _told(file, totals, "was restored", region, started_s=started_s, as_json=as_json)
    if not as_json:
        tell(f"`atoll serve --region {region}` starts it; it serves once its peers told it what it lacks")


def _told(
    file: Path,
    totals: Totals,
    what: str,
    region: str,
    *,
    started_s: float,
    as_json: bool,
    header: Header | None = None,
) -> None:
    found: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "region": region,
        "documents": totals.documents,
        "journal_segments": totals.segments,
        "conflicts": totals.conflicts,
        "parked": totals.parked,
        "position": by_region(totals.positions),
        "seconds": round(time.monotonic() - started_s, 3),
    }
    if header is not None:
        found |= {"deployment": header.deployment, "made_ms": header.made_ms, "made_by": header.made_by}
    if as_json:
        print_json(found)
        return
    position = " ".join(f"{origin} {seq}" for origin, seq in found["position"].items()) or "empty"
    typer.echo(
        f"{file} {what}: {totals.documents:,} documents of {region} with {totals.conflicts:,} conflict records,"
        f" at position {position}"
    )
