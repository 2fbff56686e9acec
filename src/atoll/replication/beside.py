"""Work that takes long, in a thread: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

T = TypeVar("T")
Arguments = ParamSpec("Arguments")


async def beside_loop(work: Callable[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
    """What `work` returns. A cancelled caller leaves it running, so it may change nothing that others see."""
    return await asyncio.to_thread(_uncollected, partial(work, *args, **kwargs))


def _uncollected(work: Callable[[], T]) -> T:
    """Without the garbage collector. It would visit a million objects that are in no cycle, and hold all threads."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if collecting:
            gc.enable()
