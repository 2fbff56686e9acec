"""The core takes time, chance, network and disk as parameters; what it imports shows whether that is so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll

ROOT = Path(atoll.__file__).parent
PURE = (
    "causality",
    "commit",
    "conflicts",
    "documents",
    "histories",
    "lattices",
    "protocol",
    "recovery",
    "rollout",
    "sagas",
    "schema",
)
EXCEPT = {"conflicts/guard.py", "causality/uncertainty.py", "schema/loading.py"}
"""Each has one function that runs or asks what is outside, and says so."""
IMPURE = {
    "aiohttp", "apsw", "asyncio", "concurrent", "glob", "http", "io", "logging", "multiprocessing", "os",
    "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
    "starlette", "subprocess", "sys", "tempfile", "threading", "time", "urllib3", "uvicorn", "uvloop", "uuid",
}  # fmt: skip
TYPES = {"from uuid import UUID"}
"""Types of values, whose modules can do more."""
EDGES = {
    f"atoll.{name}" for name in ("cli", "client", "demo", "embedded", "http", "node", "region", "replication")
}
DATA = {"atoll.replication.messages"}
"""Messages between regions are data."""
WALL_CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in PURE
    for path in (ROOT / package).rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in EXCEPT
)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and ast.unparse(node) not in TYPES:
            yield node.module or ""


def offences(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [name for name in imported(tree) if name.split(".")[0] in IMPURE]
    found += [name for name in imported(tree) if ".".join(name.split(".")[:2]) in EDGES and name not in DATA]
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append(f"async on line {node.lineno}")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("open", "print")
        ):
            found.append(f"{node.func.id}() on line {node.lineno}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS:
            found.append(f"{ast.unparse(node)} on line {node.lineno}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_the_core_does_no_input_and_output(file: str) -> None:
    assert offences((ROOT / file).read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import Random",
        "import asyncio.locks",
        "from os import path",
        "def f():\n    import socket",
        "from atoll.region.group_commit import GroupCommit",
        "async def f(): pass",
        "open('x')",
        "from datetime import datetime\ndatetime.now()",
    ],
)
def test_an_offence_is_seen(source: str) -> None:
    assert offences(source)


def test_the_exceptions_are_files_that_exist() -> None:
    assert all((ROOT / name).is_file() for name in EXCEPT)
    assert len(FILES) > 20
