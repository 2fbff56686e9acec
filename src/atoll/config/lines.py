"""Finds the line of a TOML file where a value stands, which the standard parser does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*\[+\s*(.+?)\s*\]+\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_POSITION = re.compile(r"\(at line (\d+), column \d+\)")


def line_of(text: str, path: Sequence[str]) -> int:
    """The line, from 1, of the value at `path`, or else of the innermost table around it that is there."""
    wanted = tuple(path)
    best_line, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = found = _parts(header[1])
        elif assignment := _ASSIGNMENT.match(line):
            found = table + _parts(assignment[1])
        else:
            continue
        if len(found) > best_depth and found == wanted[: len(found)]:
            best_line, best_depth = number, len(found)
    return best_line


def line_of_syntax_error(error: tomllib.TOMLDecodeError, text: str) -> int:
    """The line, from 1; the last one when the file ended too early."""
    position = _POSITION.search(str(error))
    return int(position[1]) if position else max(1, len(text.splitlines()))


def _parts(dotted: str) -> tuple[str, ...]:
    """`regions."new-york"` → ("regions", "new-york")."""
    try:
        nested = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(nested, dict):
        name, nested = next(iter(nested.items()))
        parts.append(name)
    return tuple(parts)
