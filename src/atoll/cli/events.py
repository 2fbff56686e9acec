"""`atoll events`: what happened to the deployment."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.terminal import (
    ConfigOption,
    JsonOption,
    SinceOption,
    command,
    console,
    given,
    moment,
    print_json,
    table,
    waiting,
)

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
    since: SinceOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List what happened to the deployment, in causal order: links, starts, restores, failovers."""
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    filters = given(region=region, kind=kind, since=since)
    with waiting("reading the events"):
        name, items = read_events(Regions(settings), ask, filters, limit)
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
        region, page = regions.ask_first("/v1/events", parameters, only=region)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None:
            return region, list(items)


def events_table(region: str, items: list[dict[str, Any]]) -> Table:
    from rich.markup import escape

    columns = ("happened", "region", "event", "peer", "detail")
    made = table(f"Events, as {region} has them: {len(items)}", *columns, whole=("happened", "event"))
    for item in items:
        node = f" {item['node']}" if item["node"] else ""
        times = f" ×{item['count']}" if item["count"] > 1 else ""
        left_out = [f"{item['left_out']} events before it were left out"] if item["left_out"] else []
        detail = "; ".join([*filter(None, [item["detail"]]), *left_out])
        made.add_row(
            moment(item["at_ms"]),
            escape(item["region"] + node),
            escape(item["kind"] + times),
            escape(item["peer"]),
            escape(detail),
        )
    return made
