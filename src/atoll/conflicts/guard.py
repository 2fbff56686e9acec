"""A team's own conflict function, held to its bounds.

The function must be pure. It runs in a thread of its own under a budget of executed lines, which is the
same in every region, and so cuts an endless loop at the same place everywhere; a wall-clock bound catches
what no line count can, such as a blocking call. Whatever it does wrong ends as ResolverFailed: the
siblings are kept and the conflict is filed as manual.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import FrameType
from typing import Any

import msgspec

from atoll.conflicts.strategies import Resolver, ResolverFailed
from atoll.errors import AtollError

_FAILURES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class GuardOptions:
    lines: int = 1_000_000
    """Executed lines after which the function is stopped; the same in all regions, or they may differ."""
    wall_s: float = 2.0
    """Seconds after which it is no longer waited for."""


class _OverBudget(BaseException):
    """Derived from BaseException, so that a function's own `except Exception` does not swallow it."""


def guarded(
    function: Callable[[Any], Any],
    validate: Callable[[Any], bytes],
    options: GuardOptions = GuardOptions(),
) -> Resolver:
    """`validate` turns what the function returned into canonical JSON text, or raises an AtollError."""

    failed: dict[bytes, str] = {}

    def resolve(values: Sequence[bytes | None]) -> bytes | None:
        # Asked again at every read and merge of the document, a function that hangs would hold all up.
        asked = blake2b(b"\x00".join(value or b"" for value in values), digest_size=16).digest()
        if asked in failed:
            raise ResolverFailed(failed[asked])
        decoded = [None if value is None else msgspec.json.decode(value) for value in values]
        try:
            result = _run(function, decoded, options)
        except ResolverFailed as failure:
            if len(failed) >= _FAILURES_KEPT:
                failed.clear()
            failed[asked] = str(failure)
            raise
        if result is None:
            if None not in decoded:
                raise ResolverFailed("it returned None although no version is a deletion")
            return None
        try:
            return validate(result)
        except AtollError as error:
            raise ResolverFailed(f"it returned no valid document: {error.message}") from None
        except Exception as error:
            raise ResolverFailed(f"it returned no valid document: {error!r}") from None

    return resolve


def _run(function: Callable[[Any], Any], values: list[Any], options: GuardOptions) -> Any:
    outcome: list[Any] = []
    failure: list[str] = []
    remaining = options.lines

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise _OverBudget
        return count

    def target() -> None:
        sys.settrace(count)
        try:
            outcome.append(function(values))
        except _OverBudget:
            failure.append(f"it ran for more than {options.lines} lines")
        except BaseException as error:
            failure.append(f"it raised {error!r}")
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=target, name="atoll-resolver", daemon=True)
    thread.start()
    thread.join(options.wall_s)
    if failure:
        raise ResolverFailed(failure[0])
    if not outcome:
        raise ResolverFailed(f"it did not return within {options.wall_s} s")
    return outcome[0]
