"""Identifiers after a region's store was restored: what was given out since the backup must not come again.

Nobody knows how many there were, but there is a bound on how fast they can have been given out. Each block of
prefixed ids is a durable step of the counter, of at most `MAX_COUNT` ids, so `_PER_MS` is far above what any
region can do. Two restores of one backup leave room for what was given out in between, since more time has passed.
"""

from __future__ import annotations

from collections.abc import Mapping

from atoll.errors import ClockUnsafe

_PER_MS = 10_000
SLACK_MS = 60_000
"""By how much the clocks of the old and of the new machine may disagree."""


def counters_after_restore(kept: Mapping[str, int], *, made_ms: int, now_ms: int) -> dict[str, int]:
    """What the region's counters must be at least. `kept` is what the backup holds, `made_ms` when it began.

    Raises ClockUnsafe where this machine's clock lies before the backup.
    """
    if now_ms + SLACK_MS < made_ms:
        raise ClockUnsafe(
            f"the backup was made {(made_ms - now_ms) / 1000:.0f} s after what this machine's clock reads: set it"
            " right, or identifiers could come twice"
        )
    passed_ms = max(0, now_ms - made_ms) + SLACK_MS
    return {"ids": kept.get("ids", 0) + passed_ms * _PER_MS, "snowflake_ms": now_ms + SLACK_MS}
