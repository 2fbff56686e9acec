"""What a part does beside its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple


class Background(NamedTuple):
    """A part that works beside the requests: `open` is awaited in order, then every `run` goes on for ever."""

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    open: Callable[[], Awaitable[None]] | None = None


class Tasks:
    """Of one part, which ends them with itself. A task that has ended is dropped."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        await ended(self._running)


async def ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them, and wait until they have ended."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
