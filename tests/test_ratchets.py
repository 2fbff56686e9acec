"""Sizes that may only shrink: what is over a limit stands in a list, with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import atoll

ROOT = Path(atoll.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

MODULE_LINES = 500
FUNCTION_LINES = 60
CLASS_METHODS = 25
CONSTRUCTOR_PARAMETERS = 8

EXCEPTIONS: dict[str, str] = {
    "store/memory/tables.py:MemoryTables": "a store adapter has the methods of all ports",
    "store/postgresql/store.py:PostgresStore": "a store adapter has the methods of all ports",
    "store/sqlite/store.py:SqliteStore": "a store adapter has the methods of all ports",
}
"""`file` for a module, `file:name` for a function, a class or a constructor → why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_large(file: str, source: str) -> Iterator[str]:
    """What of a module is over a limit, as `EXCEPTIONS` names it."""
    if len(source.splitlines()) > MODULE_LINES:
        yield file
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES:
            yield f"{file}:{node.name}"
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, Function)]
            if len(methods) > CLASS_METHODS:
                yield f"{file}:{node.name}"
            for each in methods:
                if each.name == "__init__" and _parameters(each) > CONSTRUCTOR_PARAMETERS:
                    yield f"{file}:{node.name}.__init__"


def _parameters(function: Function) -> int:
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1  # but for self


def test_nothing_grows_over_its_limit_without_a_reason() -> None:
    found = {
        name
        for path in FILES
        for name in too_large(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    }
    assert found == set(EXCEPTIONS)


def test_each_reason_says_something() -> None:
    assert all(len(reason.split()) >= 4 for reason in EXCEPTIONS.values())


def test_each_limit_is_looked_at() -> None:
    long = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
    wide = "class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(CLASS_METHODS + 1))
    many = "class C:\n    def __init__(self, " + ", ".join("abcdefghi") + "): ...\n"
    assert list(too_large("m", "\n" * (MODULE_LINES + 1))) == ["m"]
    assert list(too_large("m", long)) == ["m:f"]
    assert list(too_large("m", wide)) == ["m:C"]
    assert list(too_large("m", many)) == ["m:C.__init__"]
