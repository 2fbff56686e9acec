"""What a simulation can find, and the verdict that the first finding makes."""

from __future__ import annotations

import asyncio


class SimulationFailure(AssertionError):
    """`invariant` names what did not hold."""

    exit_code = 1

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant
        self.message = message

    def __reduce__(self) -> tuple[type[SimulationFailure], tuple[str, str]]:
        return type(self), (self.invariant, self.message)  # so that another process can report it


class SafetyViolation(SimulationFailure):
    """Something happened that must never happen."""

    exit_code = 3


class LivenessViolation(SimulationFailure):
    """Something that must happen did not within its time."""

    exit_code = 4


class CrashFound(SimulationFailure):
    """The code raised what it must not raise."""

    exit_code = 5


class Verdict:
    """Keeps the first failure and wakes whoever waits for one."""

    def __init__(self) -> None:
        self.failure: SimulationFailure | None = None
        self._failed = asyncio.Event()

    def fail(self, failure: SimulationFailure) -> None:
        self.failure = self.failure or failure
        self._failed.set()

    def safety(self, invariant: str, message: str) -> None:
        self.fail(SafetyViolation(invariant, message))

    def liveness(self, invariant: str, message: str) -> None:
        self.fail(LivenessViolation(invariant, message))

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    async def failed(self) -> None:
        """Return at the first failure."""
        await self._failed.wait()
