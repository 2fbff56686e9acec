"""How far this node's clock may be off, by its kernel and its peers' clocks, and whether it may stamp writes."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from atoll.causality.clock import HybridLogicalClock, format_stamp
from atoll.causality.uncertainty import UNBOUNDED_MS, ClockBound, Interval, Offset, OffsetEstimator
from atoll.errors import AtollError
from atoll.membership.members import Members
from atoll.region.site import Site
from atoll.replication.messages import PingCall, PingReply

_STEP_MS = 5
"""A clock that moved so far against the time that passed was set."""
_READ_MS = 1.0
"""Two clocks that took longer to read were not read at one moment."""
_FRESH_MS = 100
"""So long a finding is used again by what every request asks. A clock drifts by far less than `_AGED_MS` meanwhile."""
_AGED_MS = 1


class _Found(NamedTuple):
    """What the clocks come to, at one moment."""

    at_ms: int
    bound: ClockBound
    kernel_ms: int | None
    uncertainty_ms: int
    """Half-width of what most clocks say."""
    off_ms: int
    """How far the clock is outside what the peers agree on; 0 while that is not too far."""
    ahead_ms: int
    """How far it is ahead of every peer's, while the kernel does not vouch for it; 0 while that is not too far."""


class Clocks:
    """Of one node: `compare` runs for each peer."""

    def __init__(self, site: Site, clock: HybridLogicalClock, members: Members) -> None:
        options = site.options
        self.offsets = OffsetEstimator(
            max_offset_ms=options.max_clock_offset_ms,
            slack_ms=3 * _STEP_MS,
            require_proof=options.require_synchronised_clocks,
        )
        self.uncertainty_ms = options.max_clock_offset_ms
        """Half-width of what most clocks say, as stamped on this node's entries."""
        self._region = site.name
        self._clock = clock
        self._members = members
        self._now_ms = site.now_ms
        self._elapsed_ms = site.elapsed_ms
        self.kernel_ms = site.kernel_uncertainty_ms
        """The kernel's own bound on the error of the clock; None where it gives none."""
        self._ask = site.ask
        self._options = options
        self._set_at_ms: float | None = None
        """What the clock shows minus the time that has passed."""
        self._found: _Found | None = None

    async def compare(self, peer: str) -> None:
        """With one peer's, now and then, for ever."""
        while True:
            sent_ms, set_at_ms = self._read(), self._set_at_ms
            try:
                reply = await self._ask(peer, PingCall(), PingReply)
            except AtollError:
                pass  # the link's status says that the peer is out of reach
            else:
                received_ms = self._read()
                if self._set_at_ms == set_at_ms:  # else two readings of one exchange would be of two clocks
                    self.offsets.add(peer, sent_ms, reply.now_ms, received_ms, reply.kernel_ms)
            self._found = None
            self.find()
            await asyncio.sleep(self._options.ping_s)

    def forget(self, peer: str) -> None:
        """Drop what was measured against a peer that left."""
        self.offsets.forget(peer)
        self._found = None

    def offset(self, peer: str) -> Offset | None:
        """The peer's clock minus this node's; None before the first exchange."""
        return self.offsets.offset(peer, self._now_ms())

    def now(self) -> Interval:
        """Where the time lies at present: see `OffsetEstimator.bound`."""
        earliest, latest = self.find(_FRESH_MS).bound.interval(self._now_ms())
        return Interval(earliest - _AGED_MS, latest + _AGED_MS)

    def find(self, fresh_ms: int = 0) -> _Found:
        """What the clocks come to; a finding of at most `fresh_ms` ago is used again."""
        now_ms, found = self._read(), self._found
        if found is None or not 0 <= now_ms - found.at_ms <= fresh_ms:
            self._found = found = self._find_at(now_ms)
            self.uncertainty_ms = found.uncertainty_ms
        return found

    def _find_at(self, now_ms: int) -> _Found:
        kernel_ms, most_ms = self.kernel_ms(), self._options.max_clock_offset_ms
        agreement = self.offsets.agreement(now_ms, kernel_ms)
        off_ms = agreement.distance_ms(now_ms)
        ahead_ms = self.offsets.ahead_ms(now_ms) if kernel_ms is None else 0
        return _Found(
            now_ms,
            self.offsets.bound(now_ms, kernel_ms),
            kernel_ms,
            min(agreement.uncertainty_ms, UNBOUNDED_MS),
            off_ms if off_ms > most_ms else 0,
            # Peers hold back what exceeds one of them.
            ahead_ms if ahead_ms > 2 * most_ms else 0,
        )

    def _read(self) -> int:
        """What the clock shows. Notices that it was set: what was measured before moves with it.

        Offsets from peers that are out of reach at present would go on accusing a clock that was set right.
        """
        before_ms = self._elapsed_ms()
        now_ms = self._now_ms()
        if self._elapsed_ms() - before_ms > _READ_MS:
            return now_ms
        set_at_ms = now_ms - before_ms
        if self._set_at_ms is None:
            self._set_at_ms = set_at_ms
        elif abs(set_at_ms - self._set_at_ms) > _STEP_MS:
            self.offsets.stepped(round(set_at_ms - self._set_at_ms))
            self._set_at_ms = set_at_ms
            self._found = None
        return now_ms

    def warnings(self) -> list[str]:
        """A sentence for each peer whose clock and this one cannot both be right."""
        found = []
        for peer in self._members.regions:
            offset = self.offset(peer)
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
        found, most_ms = self.find(_FRESH_MS), self._options.max_clock_offset_ms
        if found.off_ms > 0:
            return (
                f"the clock of {self._region} is {found.off_ms} ms outside what its peers can agree on; "
                "it takes no writes until it is set right"
            )
        if found.ahead_ms > 0:
            return (
                f"the clock of {self._region} is {found.ahead_ms} ms ahead of every peer's, and no time service vouches"
                " for it. No peer would take its writes before then; set right the clock that is wrong"
            )
        proof = self._options.require_synchronised_clocks
        if (found.bound.agreed and found.bound.error_ms > most_ms) or (proof and not found.bound.agreed):
            return self._too_uncertain(found.bound)
        lead_ms = self._clock.lead_ms()
        if lead_ms > most_ms and len(self._members.regions) > 1:
            return (
                f"the clock of {self._region} was ahead and was set back: its stamps run {lead_ms} ms ahead of it, "
                f"up to {format_stamp(self._clock.last)}. No peer would take its writes before then; write in another "
                "region"
            )
        return None

    def _too_uncertain(self, bound: ClockBound) -> str:
        known = f"may be {bound.error_ms} ms off" if bound.agreed else "may be off by any amount"
        advice = (
            "no time service proves less: look at NTP or chrony"
            if self._options.require_synchronised_clocks
            else "set it right"
        )
        most_ms = self._options.max_clock_offset_ms
        return f"the clock of {self._region} {known}, more than max_clock_offset_ms = {most_ms}; {advice}"
