"""`atoll status`: every region's position, links, lag and conflicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from atoll.cli.terminal import FAILURE, ConfigOption, JsonOption, command, console, print_json, waiting
from atoll.errors import AtollError

if TYPE_CHECKING:
    from rich.table import Table


@command
def status(config: ConfigOption = "atoll.toml", as_json: JsonOption = False) -> None:
    """Show all regions: serving, positions, links with their lag, conflicts. Exit code 1 when one is silent."""
    from atoll.cli.regions import Regions, open_config

    settings = open_config(config)
    with waiting(f"asking {', '.join(settings.region_names)}"):
        found = Regions(settings).ask_all("/admin/status")
    urls = {region.name: region.url for region in settings.regions}
    if as_json:
        regions = {
            name: {"url": urls[name], "error": answer.message}
            if isinstance(answer, AtollError)
            else {"url": urls[name], **answer}
            for name, answer in found.items()
        }
        print_json({"deployment": settings.name, "regions": regions})
    else:
        out = console()
        out.print(regions_table(urls, found))
        out.print(links_table(found))
    if any(isinstance(answer, AtollError) for answer in found.values()):
        raise typer.Exit(FAILURE)


def regions_table(urls: dict[str, str], found: dict[str, Any]) -> Table:
    """A row for each region. `found`: region → its status, or the error of asking."""
    from rich.table import Table

    table = Table(title="Regions", title_justify="left")
    for column in ("region", "url", "serves", "position", "writes", "conflicts", "inbox", "clock ±ms"):
        table.add_column(
            column, justify="right" if column in ("writes", "conflicts", "inbox", "clock ±ms") else "left"
        )
    for name, answer in found.items():
        if isinstance(answer, AtollError):
            table.add_row(name, urls[name], "[red]no answer[/]", *["–"] * 5)
            continue
        counted, inbox = answer["counted"], answer["inbox"]
        held = f" held: {inbox['held']}" if inbox["held"] else ""
        table.add_row(
            name,
            urls[name],
            _serves(answer),
            " ".join(f"{origin} {seq}" for origin, seq in sorted(answer["position"].items())) or "empty",
            str(counted["writes"]),
            str(sum(counted["conflicts"].values())),
            f"{inbox['entries']}{held}",
            str(answer["uncertainty_ms"]),
        )
    return table


def _serves(answer: dict[str, Any]) -> str:
    if not answer["serving"]:
        return f"[red]no: {answer['out_of_service']}[/]"
    return "\n".join(["yes", *(f"[yellow]{warning}[/]" for warning in answer.get("warnings", []))])


def links_table(found: dict[str, Any]) -> Table:
    """A row for each direction of each link, seen from its receiving end."""
    from rich.table import Table

    table = Table(title="Links (what a region pulls from a peer)", title_justify="left")
    for column in (
        "region",
        "from",
        "state",
        "lag",
        "behind",
        "propagation p50",
        "round trip",
        "relays",
        "last error",
    ):
        table.add_column(
            column,
            justify="right" if column in ("lag", "behind", "propagation p50", "round trip") else "left",
        )
    for name, answer in found.items():
        if isinstance(answer, AtollError):
            continue
        cut = (answer.get("emulated") or {}).get("cut", [])
        for peer, link in answer["links"].items():
            state = "connected" if link["connected"] else "[red]cut[/]" if peer in cut else "[red]down[/]"
            table.add_row(
                name,
                peer,
                state,
                _measure(link["lag_s"], " s"),
                str(link["behind"]),
                _measure(link["propagation_p50_ms"], " ms"),
                _measure(link["round_trip_ms"], " ms"),
                ", ".join(link["relays"]) or "–",
                "" if link["connected"] else link["last_error"] or "",
            )
    return table


def _measure(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{round(value, 2)}{unit}"
