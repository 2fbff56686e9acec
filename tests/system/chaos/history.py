"""What happened, as seen from outside: acknowledged writes, faults, and everything that broke a promise."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Fault:
    kind: str
    target: str
    began_s: float
    """Since the start of the run."""
    lasted_s: float = 0.0
    healed_s: float | None = None
    """From its end until every region had all that any region had then; None when other faults were about."""


@dataclass(slots=True)
class History:
    began: float = field(default_factory=time.monotonic)
    acknowledged: Counter[str] = field(default_factory=Counter)
    """Writes, by workload."""
    checked: Counter[str] = field(default_factory=Counter)
    """Reads whose answer was held against a promise, by promise."""
    answers: Counter[str] = field(default_factory=Counter)
    """Problems that were answered to writes, by type."""
    retries: int = 0
    replayed: int = 0
    moved: int = 0
    """Writes that another region than the first one took."""
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """A promise was broken."""
    odd: Counter[str] = field(default_factory=Counter)
    """What no promise forbids and nobody should see often."""
    unanswered: list[str] = field(default_factory=list)
    """Writes given up: nobody knows whether they happened."""

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    def violated(self, promise: str, told: str) -> None:
        self.violations.append(f"{self.now_s:7.1f} s  {promise}: {told}")

    def check(self, promise: str, kept: bool, told: str) -> None:
        self.checked[promise] += 1
        if not kept:
            self.violated(promise, told)
