"""How long the event loop is held: while it is, nobody is answered, and no health check either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EVERY_S = 0.05
_KEPT_S = 60.0


class Watchdog:
    """Of the running event loop, until it is closed. `note` is told the longest stall of the last minute or two, in s.

    A timer that comes late was held up by something that took so long.
    """

    def __init__(self, note: Callable[[float], None]) -> None:
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._longest_s = self._before_s = 0.0  # in this minute, and in the one before
        self._begun_s = self._at_s = self._loop.time()
        self._timer = self._loop.call_later(_EVERY_S, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        # Twenty times a second: no task and no future for it.
        due_s, self._at_s = self._at_s + _EVERY_S, self._loop.time()
        self._timer = self._loop.call_later(_EVERY_S, self._look)
        self._longest_s = max(self._longest_s, self._at_s - due_s)
        if self._at_s - self._begun_s > _KEPT_S:
            self._before_s, self._longest_s, self._begun_s = self._longest_s, 0.0, self._at_s
        self._note(max(self._before_s, self._longest_s))
