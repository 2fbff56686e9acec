"""`atoll events`: what happened to the deployment."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.terminal import ConfigOption, JsonOption, command, console, print_json, waiting

if TYPE_CHECKING:
    from rich.table import Table

    from atoll.cli.regions import Regions

_PAGE = 1000


@command
def events(
    *,
    config: ConfigOption = "atoll.toml",
    ask: Annotated[
        str | None, typer.Option("--ask", help="Whom to ask; without it, the first region that answers.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", help="Only what this region noticed.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="link-down, link-up, region-started, …")] = None,
    since: Annotated[str | None, typer.Option("--since", help="ISO 8601 or unix milliseconds.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List what happened to the deployment, in causal order: links, starts, restores, failovers."""
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    given = {"region": region, "kind": kind, "since": since}
    filters = {name: value for name, value in given.items() if value is not None}
    among = None if ask is None else settings.region(ask).name
    with waiting("reading the events"):
        name, items = read_events(Regions(settings), among, filters, limit)
    if as_json:
        print_json({"region": name, "items": items})
    else:
        console().print(events_table(name, items))


def read_events(
    regions: Regions, region: str | None, filters: dict[str, str], limit: int
) -> tuple[str, list[dict[str, Any]]]:
    """The region that answered, and the newest `limit` events (0: all), oldest first."""
    items: deque[dict[str, Any]] = deque(maxlen=limit or None)
    cursor: str | None = None
    while True:
        parameters = {**filters, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
        among = None if region is None else [region]
        region, page = regions.ask_first("/v1/events", parameters, among=among)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None:
            return region, list(items)


def events_table(region: str, items: list[dict[str, Any]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Events, as {region} has them: {len(items)}", title_justify="left")
    for column in ("happened", "region", "event", "peer", "detail"):
        table.add_column(column, overflow="fold", no_wrap=column in ("happened", "event"))
    for item in items:
        node = f" {item['node']}" if item["node"] else ""
        times = f" ×{item['count']}" if item["count"] > 1 else ""
        left_out = [f"{item['left_out']} events before it were left out"] if item["left_out"] else []
        detail = "; ".join([*filter(None, [item["detail"]]), *left_out])
        table.add_row(
            _moment(item["at_ms"]),
            escape(item["region"] + node),
            escape(item["kind"] + times),
            escape(item["peer"]),
            escape(detail),
        )
    return table


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
