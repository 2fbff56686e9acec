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

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Many tests run `atoll` itself: none is to compile it again, where Python may not keep what it compiled."""
    if not hasattr(config, "workerinput"):
        compile_dir(Path(atoll.__file__).parent, quiet=2)


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
