"""`atoll conflicts`: the audit of what resolutions dropped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.terminal import (
    AnyRegionOption,
    ConfigOption,
    JsonOption,
    SinceOption,
    command,
    console,
    given,
    print_json,
    table,
    waiting,
)

if TYPE_CHECKING:
    from rich.table import Table

    from atoll.cli.regions import Regions

_PAGE = 500


@command
def conflicts(
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    collection: Annotated[str | None, typer.Option("--collection", help="Only of this collection.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only of the document with this key.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="insert_exists, update_origin_differs, update_deleted, …")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="open, manual or resolved.")] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", help="Only where this region's write lost or won.")
    ] = None,
    since: SinceOption = None,
    until: Annotated[str | None, typer.Option("--until", help="ISO 8601 or unix milliseconds.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The most records; 0 for all.")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the conflicts: what collided, what was dropped, and why."""
    from atoll.cli.regions import Regions, open_config

    filters = given(
        collection=collection,
        key=key,
        kind=kind,
        status=status,
        origin=origin,
        since=since,
        until=until,
    )
    regions = Regions(open_config(config))
    with waiting("reading the audit"):
        name, items, after = read_audit(regions, region, filters, limit, cursor)
    if as_json:
        print_json({"region": name, "items": items, "cursor": after})
        return
    console().print(conflicts_table(name, items))
    if after is not None:
        typer.echo(f"There are more: --cursor {after}")


def read_audit(
    regions: Regions, region: str | None, filters: dict[str, str], limit: int, cursor: str | None
) -> tuple[str, list[dict[str, Any]], str | None]:
    """Page through the audit: the region that answered, up to `limit` records (0: all), and where to go on."""
    items: list[dict[str, Any]] = []
    while True:
        wanted = min(_PAGE, limit - len(items)) if limit else _PAGE
        parameters = {**filters, "limit": str(wanted), **({"cursor": cursor} if cursor else {})}
        region, page = regions.ask_first("/v1/conflicts", parameters, only=region)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None or (limit and len(items) >= limit):
            return region, items, cursor


def conflicts_table(region: str, items: list[dict[str, Any]]) -> Table:
    from rich.markup import escape

    columns = ("id", "document", "kind", "status", "strategy", "losing", "winning", "losing value", "reason")
    made = table(f"Conflicts, as {region} has them: {len(items)}", *columns, whole=("id",))
    for item in items:
        field = f".{item['field']}" if item["field"] else ""
        made.add_row(
            item["id"],
            escape(f"{item['collection']}/{item['key']}{field}"),
            item["kind"],
            item["status"],
            item["strategy"],
            _side(item["losing"]),
            _side(item["winning"]),
            escape(_short(item["losing"]["value"])),
            escape(item["reason"]) + (" (within the clocks' uncertainty)" if item["uncertain"] else ""),
        )
    return made


def _side(side: dict[str, Any]) -> str:
    return f"{side['region']} {side['seq']} {side['at']}"


def _short(value: Any, most: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"
