"""`atoll init`: a small project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.terminal import JsonOption, command, print_json


@command
def init(
    folder: Annotated[str, typer.Argument(help="Where to write; made when it is not there.")] = ".",
    name: Annotated[str, typer.Option("--name", help="What the deployment is called.")] = "shop",
    as_json: JsonOption = False,
) -> None:
    """Write a small shop.py and atoll.toml to start from."""
    from atoll.cli.scaffold import write_project

    paths = write_project(Path(folder), name)
    if as_json:
        print_json({"name": name, "written": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(f"wrote {path}")
    inside = "" if folder == "." else f"cd {folder} && "
    typer.echo(
        f"\nStart a region (and each other one in a terminal of its own):\n\n    {inside}atoll serve --region tokyo"
    )
