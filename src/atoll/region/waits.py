"""What decides about a request, and what it waits for: what its session has seen, and what others have written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

from atoll.causality import vector as vectors
from atoll.causality.floor import origins_in
from atoll.causality.origin import region_of
from atoll.errors import TokenNotReached, TooStale
from atoll.ownership.ownership import Ownership
from atoll.region.freshness import Freshness
from atoll.region.gates import Gates
from atoll.region.group_commit import GroupCommit
from atoll.region.lost import Lost
from atoll.region.reading import Here
from atoll.region.site import Site
from atoll.region.statistics import Statistics
from atoll.replication.signal import Signal


class Waits:
    """Of one node."""

    def __init__(
        self,
        site: Site,
        group_commit: GroupCommit,
        *,
        peers: Collection[str],
        freshness: Freshness,
        lost: Lost,
        committed: Signal,
        statistics: Statistics,
    ) -> None:
        self._region = site.name
        self._peers = peers
        self._group_commit = group_commit
        self._freshness = freshness
        self._lost = lost
        self._committed = committed
        self._statistics = statistics
        self._now_ms = site.now_ms
        self._options = site.options

    async def wait_for(self, token: Mapping[str, int], max_wait_s: float | None = None) -> bool:
        """Wait until this region has seen `token`; False when it did not in time.

        Raises InvalidToken for one that names what is lost.
        """
        if vectors.descends(self._group_commit.progress.vector, token):
            return True
        self._lost.check(token)
        self._statistics.token_waits += 1
        wait_s = (
            self._options.max_wait_s if max_wait_s is None else min(max_wait_s, self._options.longest_wait_s)
        )
        try:
            async with asyncio.timeout(wait_s):
                await self._group_commit.progress.covered(token)
        except TimeoutError:
            return False
        return True

    async def require(self, token: Mapping[str, int], max_wait_s: float | None = None) -> None:
        """Wait until this region has seen `token`. Raises TokenNotReached."""
        if not await self.wait_for(token, max_wait_s):
            raise self.not_reached(token)

    def not_reached(self, token: Mapping[str, int]) -> TokenNotReached:
        missing = origins_in(vectors.missing(self._group_commit.progress.vector, token))
        left = sorted({region_of(origin) for origin in missing} - {self._region, *self._peers})
        advice = "try again, or go on without the session's token"
        if left:
            advice = (
                f"go on without its token: {', '.join(left)} has left, and brings that only if it returns"
            )
        return TokenNotReached(
            f"{self._region} has not yet seen what this session has: "
            + ", ".join(f"{origin} up to {seq}" for origin, seq in sorted(missing.items()))
            + f"; {advice}",
            missing=missing,
            **({"left": left} if left else {}),
        )

    async def fresh_enough(self, here: Here, max_wait_s: float | None) -> str | None:
        """Wait until nothing here is staler than the bound of the plan.

        Returns why it is, where the collection accepts that. Raises TooStale where it does not.
        """
        bound_s = here.bound_s
        if bound_s is None:
            return None
        wait_s = self._options.max_wait_s if max_wait_s is None else max_wait_s
        deadline = asyncio.get_running_loop().time() + min(wait_s, self._options.longest_wait_s)
        while True:
            lag_s = self.staleness_s()
            if lag_s <= bound_s:
                return None
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, self._options.heartbeat_s)):
                    await self._committed.wait()
        if here.stale_allowed:
            return f"stale by {lag_s:.1f} s"
        raise TooStale(
            f"{self._region} may lag by {lag_s:.1f} s, more than the requested {bound_s} s; try again, or use another "
            "region",
            lag_s=round(lag_s, 3) if lag_s != float("inf") else None,
        )

    def staleness_s(self) -> float:
        """How far this region may be behind the slowest of the others; infinite before all were heard."""
        now_ms = self._now_ms()
        lags = [self._freshness.lag_s(peer, now_ms) for peer in self._peers]
        return max((float("inf") if lag is None else lag for lag in lags), default=0.0)


class Admission(NamedTuple):
    """Whose a document is, whether requests are served, what they wait for; and how many there were."""

    ownership: Ownership
    gates: Gates
    waits: Waits
    statistics: Statistics
