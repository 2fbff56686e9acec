"""Identifiers after a region's store was restored: what was given out since the backup must not come again.

Their number is unknown, but the rate at which they can have been assigned is bounded. Each block of
prefixed ids is a durable step of the counter, of at most `MAX_COUNT` ids. So `_PER_MS` is far above what any region
can do. Two restores of one backup jump differently, because more time has passed at the second.
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.errors import ClockUnsafe

_PER_MS = 10_000
SLACK_MS = 60_000
"""By how much the clocks of the old and of the new machine may disagree."""
_LEAD_MS = 5_000
"""How far snowflakes run ahead of the clocks of a region's nodes at most, these being a little apart."""


def counters_after_restore(kept: Mapping[str, int], *, made_ms: int, now_ms: int) -> dict[str, int]:
    """What the region's counters must be at least. `kept` is what the backup holds, `made_ms` when it began.

    Raises ClockUnsafe where this machine's clock lies before the backup.
    """
    if now_ms + SLACK_MS < made_ms:
        raise ClockUnsafe(
            f"the backup was made {(made_ms - now_ms) / 1000:.0f} s after what this machine's clock reads: set it"
            " right, or identifiers could come twice"
        )
    snowflakes = {"snowflake_ms", *(name for name in kept if name.startswith("snowflake_ms "))}
    return {"ids": _leapt(kept.get("ids", 0), made_ms, now_ms)} | dict.fromkeys(snowflakes, now_ms + SLACK_MS)


def counters_after_failover(ids: int, *, last_ms: int, now_ms: int) -> dict[str, int]:
    """The same where the database went on in a standby, whose last commit was of `last_ms`.

    Snowflakes lean on the clock, which goes on; what they borrow ahead of it is within the slack.
    """
    numbers = ("snowflake_ms", *(f"snowflake_ms {machine}" for machine in range(1, 32)))
    return {"ids": _leapt(ids, last_ms, now_ms)} | dict.fromkeys(numbers, now_ms + _LEAD_MS)


def _leapt(ids: int, since_ms: int, now_ms: int) -> int:
    return ids + (max(0, now_ms - since_ms) + SLACK_MS) * _PER_MS
