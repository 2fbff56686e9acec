"""How long the event loop is held: while it is, nobody is answered, and no health check either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EVERY_S = 0.05
_KEPT_S = 60.0


async def watch(note: Callable[[float], None]) -> None:
    """For ever. `note` is told the longest stall of the last minute or two, in seconds.

    A timer that comes late was held up by something that took so long.
    """
    loop = asyncio.get_running_loop()
    longest_s = before_s = 0.0  # in this minute, and in the one before
    begun_s = at_s = loop.time()
    while True:
        await asyncio.sleep(_EVERY_S)
        due_s, at_s = at_s + _EVERY_S, loop.time()
        longest_s = max(longest_s, at_s - due_s)
        if at_s - begun_s > _KEPT_S:
            before_s, longest_s, begun_s = longest_s, 0.0, at_s
        note(max(before_s, longest_s))
