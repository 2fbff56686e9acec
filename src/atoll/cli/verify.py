"""`atoll verify`: compares the regions' digests, and names what differs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.terminal import (
    FAILURE,
    AnyRegionOption,
    ConfigOption,
    JsonOption,
    command,
    console,
    print_json,
    table,
    waiting,
)

if TYPE_CHECKING:
    from rich.table import Table

_PAUSE_S = 0.5
_NAMED = 20


@command
def verify(
    config: ConfigOption = "atoll.toml",
    region: AnyRegionOption = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", min=0, help="Compare again for so many seconds: writes under way differ for a moment."
        ),
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Compare all regions' documents, and name those that differ. Exit code 1 unless all are equal."""
    from atoll.cli.regions import Regions, open_config

    regions = Regions(open_config(config), timeout_s=300.0)
    until = time.monotonic() + wait
    with waiting("comparing the regions"):
        name, found = regions.ask_first("/admin/verify", only=region)
        while not found["equal"] and time.monotonic() < until:
            time.sleep(_PAUSE_S)
            name, found = regions.ask_first("/admin/verify", only=name)
    if as_json:
        print_json(found)
    else:
        out = console()
        out.print(verify_table(found))
        for line in differences(found):
            out.print(line, markup=False)
        out.print(f"Equal, as {name} sees it." if found["equal"] else "[red]Not equal.[/]")
    if not found["equal"]:
        raise typer.Exit(FAILURE)


def verify_table(found: dict[str, Any]) -> Table:
    here = found["region"]
    peers = sorted({peer for each in found["collections"].values() for peer in each["peers"]})
    counts = f"documents in {here}"
    title = f"{here} compared with {' and '.join(peers) or 'nobody'}"
    made = table(title, "collection", counts, "digest", *peers, right=(counts,))
    for collection, each in found["collections"].items():
        states = [_state(each["peers"].get(peer)) for peer in peers]
        made.add_row(collection, str(each["documents"]), each["digest"], *states)
    return made


def _state(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "–"
    if "error" in peer:
        return "[red]not compared[/]"
    return f"[red]{len(peer['different'])} differ[/]" if peer["different"] else "equal"


def differences(found: dict[str, Any]) -> list[str]:
    """A line for each document that differs (the first ones of each collection), and for each silent peer."""
    lines, silent = [], {}
    for collection, each in found["collections"].items():
        for peer, state in each["peers"].items():
            if "error" in state:
                silent[peer] = state["error"]
            lines += [f"{collection}/{key} differs in {peer}" for key in state["different"][:_NAMED]]
            if len(state["different"]) > _NAMED:
                lines.append(
                    f"{collection}: {len(state['different']) - _NAMED} more differ in {peer}; --json names all"
                )
    return lines + [f"{peer} was not compared: {error}" for peer, error in silent.items()]
