"""No test depends on how busy the machine is: property tests have no deadline for a single example."""

from __future__ import annotations

import asyncio
from compileall import compile_dir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import atoll
from atoll.region.group_commit import GroupCommit

_TESTS = Path(__file__).parent
_LONG = {
    "test_examples.py",
    "test_loop.py",
    "test_planted.py",
    "test_postgresql.py",
    "test_seeds.py",
}
"""The files that take longest begin first."""

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Many tests run `atoll` itself: none is to compile it again, where Python may not keep what it compiled."""
    if not hasattr(config, "workerinput"):
        compile_dir(Path(atoll.__file__).parent, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for processes alternate with files that compute: no processor is idle at the end."""
    files = dict.fromkeys(item.path for item in items)
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(_kind(file), []).append(file)
    places = {
        file: (place + 0.5) / len(kind) - (file.name in _LONG)
        for kind in kinds.values()
        for place, file in enumerate(kind)
    }
    items.sort(key=lambda item: places[item.path])


def _kind(file: Path) -> str:
    for kind in ("simulation", "unit"):
        if file.is_relative_to(_TESTS / kind):
            return kind
    return "processes"


@pytest.fixture(autouse=True)
def works_need_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is heavy is performed in a thread. So no work of a group commit may ask for the event loop."""
    performed = GroupCommit._performed

    def without_loop(self: GroupCommit, *arguments: Any) -> Any:
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return performed(self, *arguments)
        finally:
            asyncio._set_running_loop(running)

    monkeypatch.setattr(GroupCommit, "_performed", without_loop)
