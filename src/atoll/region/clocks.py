"""How far this node's clock may be off, by what its peers' clocks say, and whether it may stamp writes."""

from __future__ import annotations

import asyncio

from atoll.causality.clock import HybridLogicalClock, format_stamp
from atoll.causality.uncertainty import OffsetEstimator
from atoll.errors import AtollError
from atoll.membership.members import Members
from atoll.region.site import Site
from atoll.replication.messages import PingCall, PingReply

_MOST_UNCERTAIN_MS = 60_000
_STEP_MS = 100
"""A clock that moved so far against the event loop's was set."""


class Clocks:
    """Of one node: `compare` runs for each peer."""

    def __init__(
        self,
        site: Site,
        clock: HybridLogicalClock,
        members: Members,
    ) -> None:
        options = site.options
        self.offsets = OffsetEstimator(max_offset_ms=options.max_clock_offset_ms)
        self.uncertainty_ms = options.max_clock_offset_ms
        """Half-width of this node's clock error, as stamped on its entries."""
        self.off_ms = 0
        """How far the clock is outside what the peers agree on; 0 while that is not too far."""
        self.ahead_ms = 0
        """How far it is ahead of every peer's, while the kernel does not vouch for it; 0 while that is not too far."""
        self._region = site.name
        self._clock = clock
        self._members = members
        self._now_ms = site.now_ms
        self._kernel_uncertainty_ms = site.kernel_uncertainty_ms
        self._ask = site.ask
        self._options = options
        self._wall_minus_loop_ms: int | None = None

    async def compare(self, peer: str) -> None:
        """With one peer's, now and then, for ever."""
        while True:
            self._notice_step()
            sent_ms = self._now_ms()
            try:
                reply = await self._ask(peer, PingCall(), PingReply)
                self.offsets.add(peer, sent_ms, reply.now_ms, self._now_ms())
            except AtollError:
                pass  # the link's status says that the peer is out of reach
            now_ms = self._now_ms()
            kernel_ms, most_ms = self._kernel_uncertainty_ms(), self._options.max_clock_offset_ms
            interval = self.offsets.interval(now_ms, kernel_ms)
            self.uncertainty_ms = min(interval.uncertainty_ms, _MOST_UNCERTAIN_MS)
            distance_ms = interval.distance_ms(now_ms)
            self.off_ms = distance_ms if distance_ms > most_ms else 0
            ahead_ms = self.offsets.ahead_ms(now_ms) if kernel_ms is None else 0
            # Peers hold back what exceeds one of them.
            self.ahead_ms = ahead_ms if ahead_ms > 2 * most_ms else 0
            await asyncio.sleep(self._options.ping_s)

    def _notice_step(self) -> None:
        """Offsets from peers that are out of reach at present would go on accusing a clock that was set right."""
        before = self._wall_minus_loop_ms
        now_ms = self._now_ms() - int(asyncio.get_running_loop().time() * 1000)
        if before is not None and abs(now_ms - before) > _STEP_MS:
            self.offsets.stepped(now_ms - before)
        self._wall_minus_loop_ms = now_ms

    def warnings(self) -> list[str]:
        """A sentence for each peer whose clock and this one cannot both be right."""
        found = []
        for peer in self._members.regions:
            offset = self.offsets.offset(peer, self._now_ms())
            if (
                offset is not None
                and abs(offset.offset_ms) - offset.error_ms > self._options.max_clock_offset_ms
            ):
                apart_ms, side = abs(offset.offset_ms), "ahead of" if offset.offset_ms > 0 else "behind"
                found.append(
                    f"the clock of {peer} is {apart_ms} ms {side} the one of {self._region}; set one right"
                )
        return found

    def writes(self) -> str | None:
        """Why nothing may be stamped here; None while the clock is safe."""
        if self.off_ms > 0:
            return (
                f"the clock of {self._region} is {self.off_ms} ms outside what its peers can agree on; "
                "it takes no writes until it is set right"
            )
        if self.ahead_ms > 0:
            return (
                f"the clock of {self._region} is {self.ahead_ms} ms ahead of every peer's, and no time service vouches"
                " for it. No peer would take its writes before then; set right the clock that is wrong"
            )
        lead_ms = self._clock.lead_ms()
        if lead_ms > self._options.max_clock_offset_ms and len(self._members.regions) > 1:
            return (
                f"the clock of {self._region} was ahead and was set back: its stamps run {lead_ms} ms ahead of it, "
                f"up to {format_stamp(self._clock.last)}. No peer would take its writes before then; write in another "
                "region"
            )
        return None
