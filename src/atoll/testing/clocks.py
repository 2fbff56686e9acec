"""Wall clocks that are wrong in the ways in which real ones are."""

from __future__ import annotations

from collections.abc import Callable

EPOCH_MS = 1_760_000_000_000
"""The true time at virtual second 0."""


class NodeClock:
    """Unix milliseconds of one node: true time, drifting by `drift_ppm` and off by `offset_ms`."""

    def __init__(self, loop_time: Callable[[], float], *, offset_ms: int = 0, drift_ppm: int = 0) -> None:
        self.drift_ppm = drift_ppm
        self._loop_time = loop_time
        self._base_s = loop_time()
        self._shown_ms = EPOCH_MS + self._base_s * 1000 + offset_ms

    def __call__(self) -> int:
        return int(self._precise_ms())

    @property
    def offset_ms(self) -> int:
        """How far it is off at present."""
        return round(self._precise_ms() - EPOCH_MS - self._loop_time() * 1000)

    def step(self, ms: int) -> None:
        """Jump forwards or backwards."""
        self._rebase(self._precise_ms() + ms)

    def set_right(self, *, offset_ms: int = 0) -> None:
        """What a time service does: the drift goes, the offset becomes what is given."""
        self.drift_ppm = 0
        self._rebase(EPOCH_MS + self._loop_time() * 1000 + offset_ms)

    def _precise_ms(self) -> float:
        passed_s = self._loop_time() - self._base_s
        return self._shown_ms + passed_s * (1000 + self.drift_ppm / 1000)

    def _rebase(self, shown_ms: float) -> None:
        self._base_s = self._loop_time()
        self._shown_ms = shown_ms
