"""The region is the boundary: other packages call its own methods, and touch none of its parts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll

ROOT = Path(atoll.__file__).parent
OFFERED = {
    *("name", "origin", "application", "bounds", "rules", "regions", "membership", "peers", "now_ms"),
    *("read", "list", "siblings", "shown", "write", "changes", "cursor", "refresh", "vector"),  # documents
    *("transact", "snapshot"),  # several documents
    *("list_conflicts", "resolve", "list_events"),  # records
    *("start_saga", "find_saga", "list_sagas", "tell_saga", "await_saga", "saga_doubts"),
    *(
        "status",
        "decide_alone",
        "health_of",
        "clock_interval",
        "check_token",
        "check_whole",
        "role",
        "drain",
        "forget",
        "contents",
        "parked",
        "digest",
        "verify",
    ),
    *("count_invalid_trace", "note_stall", "claim"),  # what a node does for its clients
    *(
        "start",
        "stop",
        "change_members",
        "answer",
        "stream",
        "check_peer",
        "refused",
        "deliver",
    ),  # its life, and its peers
}
"""All that another package may use of a `Region`."""
OBSERVED = {
    *("snapshot_install", "group_commit", "redeclaration", "intake", "links", "digests"),
    *("store", "reader", "gates", "clock", "holds", "voting"),
}
"""What the test harness and the simulator look at besides, from the outside of a running region."""
HARNESS = ("testing", "simulation")
OTHER = ("node", "http", "embedded", "client", "cli", "bulk", "backup", "demo")
RECEIVERS = {"region", "_region"}
OF_NAMES, OF_SETTINGS = {"encode", "capitalize"}, {"location", "url", "nodes", "witness"}
"""Of what is called `region` and is a string, or a section of atoll.toml."""


def used(source: str) -> Iterator[str]:
    """Attributes of what is called `region`, in any object."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in RECEIVERS:
                yield node.attr


def modules(*packages: str) -> list[str]:
    found = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    return [path.relative_to(ROOT).as_posix() for path in found]


def touched(file: str) -> set[str]:
    return set(used((ROOT / file).read_text("utf-8"))) - OF_NAMES - OF_SETTINGS


@pytest.mark.parametrize("file", modules(*OTHER))
def test_nothing_touches_a_part_of_the_region(file: str) -> None:
    assert touched(file) - OFFERED == set()


@pytest.mark.parametrize("file", modules(*HARNESS))
def test_the_simulator_observes_what_is_listed(file: str) -> None:
    assert touched(file) - OFFERED - OBSERVED == set()


def test_what_is_listed_is_used() -> None:
    found: set[str] = set()
    for file in modules(*OTHER, *HARNESS):
        found |= touched(file)
    assert (OFFERED | OBSERVED) - found == set()
