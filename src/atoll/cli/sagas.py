"""`atoll sagas …`: what is under way, what is stuck and why; and what people do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from atoll.cli.terminal import (
    AnyRegionOption,
    ConfigOption,
    JsonOption,
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

_PAGE = 500

saga_commands = typer.Typer(no_args_is_help=True, help="Sagas: list them, and help those that are stuck.")

NameArgument = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's name.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="What it was started with.")]


@saga_commands.command("list")
@command
def list_(
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    saga: Annotated[str | None, typer.Option("--saga", help="Only of this name.")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", help="running, waiting, compensating, stuck, completed or compensated."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The most sagas; 0 for all.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List sagas: how they stand, since when, and why."""
    from atoll.cli.regions import Regions, open_config

    regions = Regions(open_config(config))
    with waiting("reading the sagas"):
        name, items = read_sagas(regions, region, given(saga=saga, status=status), limit)
    if as_json:
        print_json({"region": name, "items": items})
    else:
        console().print(_listed(name, items))


@saga_commands.command()
@command
def show(
    saga: NameArgument,
    key: KeyArgument,
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one saga: what it has done and undone, what it knows, and what it waits for."""
    from atoll.cli.regions import Regions, open_config

    _, found = Regions(open_config(config)).ask_first(_path(saga, key), only=region)
    _tell(found, as_json=as_json)


@saga_commands.command()
@command
def retry(
    saga: NameArgument,
    key: KeyArgument,
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Attempt once more what a saga is stuck at, or pauses before."""
    _order(config, region, saga, key, {"retry": {}}, as_json=as_json)


@saga_commands.command()
@command
def skip(
    saga: NameArgument,
    key: KeyArgument,
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    step: Annotated[str, typer.Option("--step", help="Only if it is stuck at this step.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Go on as if what a saga is stuck at had been done: you have done it by hand."""
    from atoll.cli.regions import Regions, open_config

    if not step:  # an order that arrives twice must not skip two steps
        step = Regions(open_config(config)).ask_first(_path(saga, key), only=region)[1]["step"]
    _order(config, region, saga, key, {"skip": {"step": step}}, as_json=as_json)


@saga_commands.command()
@command
def abort(
    saga: NameArgument,
    key: KeyArgument,
    *,
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    reason: Annotated[str, typer.Option("--reason", help="What the saga's document says of it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Undo what a saga has done; refused once it has passed its pivot."""
    _order(config, region, saga, key, {"abort": {"reason": reason}}, as_json=as_json)


def read_sagas(
    regions: Regions, region: str | None, filters: dict[str, str], limit: int
) -> tuple[str, list[dict[str, Any]]]:
    """The region that answered, and up to `limit` sagas (0: all)."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        wanted = min(_PAGE, limit - len(items)) if limit else _PAGE
        parameters = {**filters, "limit": str(wanted), **({"cursor": cursor} if cursor else {})}
        region, page = regions.ask_first("/v1/sagas", parameters, only=region)
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None or (limit and len(items) >= limit):
            return region, items


def _order(
    config: str, region: str | None, saga: str, key: str, body: dict[str, Any], *, as_json: bool
) -> None:
    from atoll.cli.regions import Regions, open_config

    _tell(Regions(open_config(config)).tell_first(_path(saga, key), body, only=region), as_json=as_json)


def _path(saga: str, key: str) -> str:
    return f"/v1/sagas/{quote(saga, safe='')}/{quote(key, safe='')}"


def _listed(region: str, items: list[dict[str, Any]]) -> Table:
    from rich.markup import escape

    columns = ("saga", "status", "since", "step", "attempts", "why", "done")
    made = table(f"Sagas, as {region} has them: {len(items)}", *columns, whole=("saga", "status", "since"))
    for item in items:
        made.add_row(
            escape(f"{item['saga']}/{item['key']}"),
            item["status"],
            moment(item["since_ms"]),
            escape(("undo " if item["backwards"] and item["step"] else "") + item["step"]),
            str(item["attempts"] or ""),
            escape(": ".join(filter(None, (item["cause"], item["error"], _awaited(item))))),
            escape(", ".join(f"{each['step']} {each['outcome']}" for each in item["done"])),
        )
    return made


def _awaited(item: dict[str, Any]) -> str:
    names = ", ".join(item.get("waits_for", ()))
    return f"waits for {names}" if names else ""


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    from rich.markup import escape

    made = table(f"Saga {found['saga']}/{found['key']}", "", "")
    wake = moment(found["wake_ms"]) if found["wake_ms"] else ""
    rows = {
        "status": f"{found['status']} since {moment(found['since_ms'])}",
        "next": ("undo " if found["backwards"] and found["step"] else "") + found["step"],
        "not before": wake,
        "why": ": ".join(filter(None, (found["cause"], found["error"]))),
        "attempts that failed": str(found["attempts"] or ""),
        "started": f"{moment(found['started_ms'])} in {found['home']}; {found['region']} acted last",
        "fields": json.dumps(found["fields"], ensure_ascii=False),
        "waits for": ", ".join(found.get("waits_for", ())),
        "signals": json.dumps(found["signals"], ensure_ascii=False) if found["signals"] else "",
    }
    for name, text in rows.items():
        if text:
            made.add_row(name, escape(text))
    for each in found["done"]:
        attempts = f", {each['attempts']} attempts" if each.get("attempts", 1) > 1 else ""
        made.add_row(
            f"{each['step']} {each['outcome']}", f"{moment(each['at_ms'])} in {each['region']}{attempts}"
        )
    console().print(made)
