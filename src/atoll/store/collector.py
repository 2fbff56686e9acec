"""The garbage collector. It would visit all that works in threads make, and hold all threads meanwhile."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class _Works:
    """In threads of this process, which the collector waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def begin(self) -> bool:
        """Whether the collector waits; whoever has disabled it goes without."""
        with self._lock:
            wanted = self._count > 0 or gc.isenabled()
            self._count += wanted
            gc.disable()
            return wanted

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                # Nor may it visit them at once when it is back. This makes all objects old, and looks at none.
                gc.freeze()
                gc.unfreeze()
                gc.enable()


_works = _Works()


def collect_rarely() -> None:
    """In all of this process: large documents are thousands of objects that are in no cycle.

    To collect after every 700 of them is waste, and slow where many are held at once.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def uncollected(work: Callable[[], T]) -> T:
    """Do it without the collector, which would find a million objects that are in no cycle."""
    wanted = _works.begin()
    try:
        return work()
    finally:
        if wanted:
            _works.end()
