"""External consistency: an acknowledgement waits until no later write can be stamped before it.

docs/clocks.md has the proof. The write is durable before the wait begins, and readers may see it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from atoll.causality.clock import HybridLogicalClock, format_stamp, stamp_ms
from atoll.causality.origin import region_of
from atoll.causality.types import Stamp
from atoll.documents.mutation import Receipt, Write
from atoll.documents.rules import Rules
from atoll.errors import ClockUnsafe, ConfigError, OrderUncertain
from atoll.region.clocks import Clocks
from atoll.region.site import Site

_LOOK_S = 0.25
"""How often the interval is looked at meanwhile: a better comparison with a peer may shorten the wait."""


def settled_ms(stamp: Stamp, most_ms: int) -> int:
    """From which time on every node whose clock is within `most_ms` stamps higher."""
    return stamp_ms(stamp) + most_ms + 1


class CommitWait:
    """Of one node."""

    def __init__(
        self, site: Site, rules: Mapping[str, Rules], clocks: Clocks, clock: HybridLogicalClock
    ) -> None:
        """Raises ConfigError where clocks may be so far off that no wait would end in time."""
        self._collections = frozenset(name for name, each in rules.items() if each.schema.policy.commit_wait)
        self._region = site.name
        self._most_ms = site.options.max_clock_offset_ms
        self._longest_s = site.options.commit_wait_s
        self._clocks = clocks
        self._clock = clock
        # A stamp runs ahead of the clock by one bound at most, and the clock may be off by another.
        if self._collections and 3 * self._most_ms > self._longest_s * 1000:
            raise ConfigError(
                f"{min(self._collections)} is declared with commit_wait, whose acknowledgements wait for up to three"
                f" times max_clock_offset_ms = {self._most_ms}; set it to at most {int(self._longest_s * 1000) // 3}"
            )

    def warning(self) -> str | None:
        """What the order rests on, while nothing proves it."""
        bound = self._clocks.find().bound
        if not (self._collections and bound.assumed):
            return None
        return (
            f"nothing proves the clock of {self._region} to be within {self._most_ms} ms, and the order of what is"
            f" written to {', '.join(sorted(self._collections))} rests on that"
        )

    def concerns(self, write: Write) -> bool:
        """Whether the order of the write is waited for."""
        return bool(self._collections) and any(
            each.collection in self._collections for each in write.mutations
        )

    def check(self) -> None:
        """Before the write. Raises ClockUnsafe where the wait would not end."""
        if not self._clocks.find().bound.agreed:
            raise ClockUnsafe(
                f"the clocks that {self._region} compares disagree, and no majority of them can be right at once. So"
                " the order of this write could not be made certain; nothing was written",
                region=self._region,
            )
        lead_ms = self._clock.lead_ms()
        if lead_ms > self._most_ms:
            raise ClockUnsafe(
                f"the stamps of {self._region} run {lead_ms} ms ahead of its clock, up to"
                f" {format_stamp(self._clock.last)}; until then the order of a write could not be made certain",
                region=self._region,
            )

    async def over(self, receipt: Receipt, vector: Mapping[str, int]) -> None:
        """Wait until whoever begins a write from now on gets a higher stamp. Raises OrderUncertain."""
        until_ms = settled_ms(receipt.stamp, self._most_ms)
        try:
            async with asyncio.timeout(self._longest_s):
                while (left_ms := until_ms - self._clocks.now().earliest) > 0:  # noqa: ASYNC110 - time is waited for
                    await asyncio.sleep(min(left_ms / 1000, _LOOK_S))
        except TimeoutError:
            raise OrderUncertain(
                f"the write is durable in {self._region}. Its order among later writes is not certain yet: that clock"
                f" may be {self._clocks.find().bound.error_ms} ms off. Do not write it anew: the same request with the"
                " same idempotency key waits for the rest",
                region=region_of(receipt.origin),
                seq=receipt.seq,
                vector=dict(vector),
            ) from None
