"""Work that takes long, in a thread or in turns: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from atoll.schema.bounds import BESIDE_BYTES
from atoll.store.collector import uncollected

T = TypeVar("T")
Arguments = ParamSpec("Arguments")


async def beside_loop(work: Callable[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
    """What `work` returns. A cancelled caller leaves it running, so it may change nothing that others see."""
    return await asyncio.to_thread(uncollected, partial(work, *args, **kwargs))


def in_pieces(body: bytes) -> bytes | io.BytesIO:
    """What aiohttp sends for a body: a large one piece by piece. Bytes it would send at once, and warn of that."""
    return io.BytesIO(body) if len(body) > BESIDE_BYTES // 2 else body


class Turns:
    """Of work on the event loop that consists of many small pieces: others have their turn in between."""

    def __init__(self) -> None:
        self._left_bytes = BESIDE_BYTES

    async def after(self, size_bytes: int) -> None:
        """Say what the next piece weighs, in bytes of text that is looked through."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            self._left_bytes = BESIDE_BYTES
            await asyncio.sleep(0)
