"""`atoll init`: a small project to start from."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.terminal import JsonOption, command, print_json
from atoll.errors import ConfigError

_TEMPLATES = ("shop.py", "atoll.toml")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@command
def init(
    folder: Annotated[str, typer.Argument(help="Where to write; made when it is not there.")] = ".",
    name: Annotated[str, typer.Option("--name", help="What the deployment is called.")] = "shop",
    as_json: JsonOption = False,
) -> None:
    """Write a small shop.py and atoll.toml to start from."""
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


def write_project(folder: Path, name: str) -> list[Path]:
    """Write the templates into `folder`, made if needed, for a deployment called `name`; return their paths.

    Raises ConfigError, having written nothing, when a file already exists, `name` is no name or the folder
    cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a deployment's name; use small letters, digits, - and _, after a letter"
        )
    paths = [folder / template for template in _TEMPLATES]
    for path in paths:
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"{path} already exists and stays as it is; choose another folder, or move it away"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            text = files("atoll.cli").joinpath("templates", path.name).read_text("utf-8")
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace('name = "shop"', f'name = "{name}"'))
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written to: {error.strerror}; choose another folder"
        ) from error
    return paths
