"""Imports point down: no package imports from its own layer or from one above, so there is no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll

from .layers import LAYERS, PAGE, with_table

ROOT = Path(atoll.__file__).parent
RANK = {name: rank for rank, (name, _) in enumerate(LAYERS)}
PROGRAMS = {"demo/shop.py", "cli/templates/shop.py"}
"""A user's programs: they import from `atoll` itself."""
FRONT_DOOR = "__init__.py"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Packages of Atoll that a module imports from, also inside functions; `atoll` for the front group commit."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "atoll":
                names = [f"atoll.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "atoll":
                yield parts[1] if len(parts) > 1 and parts[1] in RANK else "atoll"


def offences(file: str, source: str) -> list[str]:
    """Packages that `file` may not import from."""
    own = file.split("/", maxsplit=1)[0].removesuffix(".py")
    return sorted(
        {name for name in imported(source) if name != own and RANK.get(name, len(RANK)) >= RANK[own]}
    )


@pytest.mark.parametrize("file", [file for file in FILES if file not in PROGRAMS | {FRONT_DOOR}])
def test_imports_point_down(file: str) -> None:
    assert offences(file, (ROOT / file).read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from atoll.region.region import Region",
        "import atoll.region.region",
        "from atoll import region",
        "from atoll import Collection",
        "def f():\n    from atoll.cli.main import app",
    ],
)
def test_an_upward_import_is_seen(source: str) -> None:
    assert offences("documents/entry.py", source)


def test_every_package_has_a_layer() -> None:
    packages = {file.split("/", maxsplit=1)[0].removesuffix(".py") for file in FILES if file != FRONT_DOOR}
    assert packages == set(RANK)


def test_nothing_lies_loose_at_the_root() -> None:
    loose = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert loose == {"__init__.py", "errors.py", "py.typed"}


def test_the_table_of_folders_is_made_of_the_layers() -> None:
    page = PAGE.read_text("utf-8")
    assert page == with_table(page), "run `make docs`"
