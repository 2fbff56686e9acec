"""`atoll demo`: three regions on this machine, and a shop that runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from atoll.cli.terminal import JsonOption, command


@command
def demo(
    *,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of a live view; the default without a terminal.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the regions up afterwards, until Ctrl-C.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=5, max=3600, help="How long the shop is open.")
    ] = 60.0,
    seed: Annotated[
        int, typer.Option("--seed", help="Which weeks are replayed, and who collides with whom.")
    ] = 1,
    folder: Annotated[
        str | None,
        typer.Option("--folder", help="Where the data lies, and stays; without it a temporary folder."),
    ] = None,
    store: Annotated[
        Literal["sqlite", "postgresql"], typer.Option("--store", help="What the regions keep their data in.")
    ] = "sqlite",
    as_json: JsonOption = False,
) -> None:
    """Run a shop in three regions, cut a link, kill a region, and prove that nothing was lost.

    Exit code 1 if any proof fails.
    """
    from atoll.demo.main import DemoOptions, run

    options = DemoOptions(
        seconds=seconds,
        seed=seed,
        plain=plain,
        keep=keep,
        folder=None if folder is None else Path(folder),
        postgresql=store == "postgresql",
        as_json=as_json,
    )
    raise typer.Exit(run(options))
