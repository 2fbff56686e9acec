"""Writes a small project to start from, for `atoll init`."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from atoll.errors import ConfigError

TEMPLATES = ("shop.py", "atoll.toml")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def write_project(folder: Path, name: str) -> list[Path]:
    """Write the templates into `folder`, made if needed, for a deployment called `name`; return their paths.

    Raises ConfigError, having written nothing, when a file already exists, `name` is no name or the folder
    cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a deployment's name; use small letters, digits, - and _, after a letter"
        )
    paths = [folder / template for template in TEMPLATES]
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
