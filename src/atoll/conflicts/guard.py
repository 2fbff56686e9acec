"""A team's own conflict function, held to its bounds.

The function must be pure. It runs in a thread of its own under a budget of executed lines. The budget is
the same in every region, so it ends an endless loop at the same place everywhere. A wall-clock bound ends
blocking calls, which execute no lines. Every failure is a ResolverFailed: the siblings are kept, and the
conflict is recorded as manual.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import FrameType
from typing import Any

import msgspec

from atoll.documents.strategies import Resolver, ResolverFailed
from atoll.errors import AtollError

_REMEMBERED = 4096
_REMEMBERED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class GuardOptions:
    lines: int = 1_000_000
    """Executed lines after which the function is stopped; the same in all regions, or they may differ."""
    wall_s: float = 2.0
    """Seconds after which it is no longer waited for."""


def guarded(
    function: Callable[[Any], Any],
    validate: Callable[[Any], bytes],
    options: GuardOptions = GuardOptions(),
) -> Resolver:
    """`validate` turns what the function returned into canonical JSON text, or raises an AtollError."""

    # A document is asked about at its merge, for its audit, and at every later merge while it is contested;
    # and a function that hangs would hold all of these up.
    outcomes = _Outcomes()

    def resolve(values: Sequence[bytes | None]) -> bytes | None:
        asked = blake2b(b"\x00".join(value or b"" for value in values), digest_size=16).digest()
        known = outcomes.get(asked)
        if known is None:
            try:
                known = _resolved(function, validate, values, options)
            except ResolverFailed as failure:
                known = str(failure)
            outcomes.keep(asked, known)
        if isinstance(known, str):
            raise ResolverFailed(known)
        return known or None

    return resolve


class _Outcomes:
    """What became of which versions: a document, b"" for a deletion, or why the function failed."""

    def __init__(self) -> None:
        self._outcomes: dict[bytes, bytes | str] = {}
        self._bytes = 0

    def get(self, asked: bytes) -> bytes | str | None:
        return self._outcomes.get(asked)

    def keep(self, asked: bytes, outcome: bytes | str) -> None:
        self._bytes += len(outcome)
        if len(self._outcomes) >= _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            self._outcomes.clear()
            self._bytes = len(outcome)
        self._outcomes[asked] = outcome


def _resolved(
    function: Callable[[Any], Any],
    validate: Callable[[Any], bytes],
    values: Sequence[bytes | None],
    options: GuardOptions,
) -> bytes:
    result = _shared.run(
        function, [None if value is None else msgspec.json.decode(value) for value in values], options
    )
    if result is None:
        if None not in values:
            raise ResolverFailed("it returned None although no version is a deletion")
        return b""
    try:
        return validate(result)
    except AtollError as error:
        raise ResolverFailed(f"it returned an invalid document: {error.message}") from None
    except Exception as error:
        raise ResolverFailed(f"it returned an invalid document: {error!r}") from None


class _OverBudget(BaseException):
    """Derived from BaseException, so that a function's own `except Exception` does not swallow it."""


class _Worker:
    """A thread that runs one function after the other: starting one for each took longer than most functions."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Callable[[Any], Any], list[Any], int]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, str | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="atoll-resolver", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """It is not in a process that was forked off."""
        return self._thread.is_alive()

    def run(
        self, function: Callable[[Any], Any], values: list[Any], options: GuardOptions
    ) -> tuple[Any, str | None]:
        """As `_counted`. Raises queue.Empty when it did not come back: the worker is then of no more use."""
        self._asked.put((function, values, options.lines))
        return self._answers.get(timeout=options.wall_s)

    def _work(self) -> None:
        while True:
            self._answers.put(_counted(*self._asked.get()))


def _counted(function: Callable[[Any], Any], values: list[Any], lines: int) -> tuple[Any, str | None]:
    """What the function returned, or why it did not."""
    remaining = lines

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise _OverBudget
        return count

    sys.settrace(count)
    try:
        return function(values), None
    except _OverBudget:
        return None, f"it ran for more than {lines} lines"
    except BaseException as error:
        return None, f"it raised {error!r}"
    finally:
        sys.settrace(None)


class _Shared:
    """The worker of all functions in this process; another takes over from one that hangs."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._worker: _Worker | None = None

    def run(self, function: Callable[[Any], Any], values: list[Any], options: GuardOptions) -> Any:
        with self._one_at_a_time:
            worker, self._worker = self._worker, None
            if worker is None or not worker.alive:
                worker = _Worker()
            try:
                result, failure = worker.run(function, values, options)
            except queue.Empty:
                raise ResolverFailed(f"it did not return within {options.wall_s} s") from None
            self._worker = (
                worker  # not where it was interrupted: its answer would be taken for the next one's
            )
        if failure is not None:
            raise ResolverFailed(failure)
        return result


_shared = _Shared()
