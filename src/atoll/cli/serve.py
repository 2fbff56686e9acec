"""`atoll serve`: one region over HTTP."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from atoll.cli.terminal import ConfigOption, JsonOption, command, print_json


@command
def serve(
    region: Annotated[str, typer.Option("--region", "-r", help="Which region this node serves.")],
    app: Annotated[
        str | None,
        typer.Argument(help="The file that declares the collections; without it, what atoll.toml says."),
    ] = None,
    node: Annotated[
        int, typer.Option("--node", min=1, help="Which of the region's nodes, where it has several.")
    ] = 1,
    config: ConfigOption = "atoll.toml",
    as_json: JsonOption = False,
) -> None:
    """Serve one region, until Ctrl-C or SIGTERM. SIGHUP takes up a changed atoll.toml."""
    from atoll.cli.regions import open_config
    from atoll.node.serving import run

    settings = open_config(config)
    if app is not None:
        settings = dataclasses.replace(settings, app=Path(app).resolve())
    placed = settings.member(region)
    placed.address(node)
    url, data = placed.nodes[node - 1] if placed.nodes else placed.url, settings.region_store(region)

    def ready() -> None:
        where = {"region": region, "node": node, "url": url, "data": data}
        if as_json:
            print_json({**where, "app": str(settings.app), "pid": os.getpid()})
        else:
            does = "votes" if placed.witness else f"serves {settings.app.name}"
            typer.echo(f"{region} of {settings.name} {does} at {url}, its data lies in {data}")

    # An exception unwinds the node, so that its store is closed; the default actions would not.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    run(settings, region, ready, node)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
