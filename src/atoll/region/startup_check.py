"""What its peers hold of a region's own entries: it hears that before its first write.

Its disk may be lost, or an old copy, and then they know entries of its own that it must not number anew. So while they
hold some that it lacks, it asks for them everywhere and takes no writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from atoll.errors import AtollError, Unavailable
from atoll.region.group_commit import GroupCommit
from atoll.replication.link import Link
from atoll.replication.signal import Signal


class StartupCheck:
    """Of one node to the peers. `wait` once after the start, and `watch` for ever."""

    def __init__(
        self,
        region: str,
        links: Mapping[str, Link],
        group_commit: GroupCommit,
        *,
        review: Callable[[], None],
        patience_s: float,
    ) -> None:
        """`review` is called when `recovering` has changed."""
        self.over = not links
        """Whether every peer was heard, or waited for long enough."""
        self.recovering = False
        """Whether peers are asked for this region's own entries."""
        self._region = region
        self._links = links
        self._group_commit = group_commit
        self._review = review
        self._patience_s = patience_s
        self._own_elsewhere = 0
        """The region's own position, by what the peers hold."""
        self._heard = Signal()

    def heard(self, vector: Mapping[str, int]) -> None:
        """A peer said what it has."""
        self._own_elsewhere = max(self._own_elsewhere, vector.get(self._region, 0))
        self._heard.notify()

    def forget(self) -> None:
        """The database is another one: every peer is heard anew."""
        self._own_elsewhere = 0

    async def wait(self) -> None:
        """Until the peers were heard, or for as long as that may take."""
        if self._links:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    while self.unheard:
                        await self._heard.wait()
        self.over = True

    async def watch(self) -> None:
        """Ask everywhere for this region's own entries, while peers hold some that it has lost."""
        while True:
            await self._heard.wait()
            if self.lacks_own != self.recovering:
                with contextlib.suppress(AtollError):
                    await (
                        self._group_commit.refresh()
                    )  # another node of this region may have written them a moment ago
                if self.lacks_own != self.recovering:
                    self.recovering = not self.recovering
                    self._review()

    async def check(self) -> None:
        """Raises Unavailable while peers hold entries that this region has lost."""
        if self.lacks_own:
            await (
                self._group_commit.refresh()
            )  # another node of this region may have written them a moment ago
        if self.lacks_own:
            raise Unavailable(self.reason)

    @property
    def lacks_own(self) -> bool:
        return self._own_elsewhere > self._group_commit.vector.get(self._region, 0)

    @property
    def knows_its_own(self) -> bool:
        """Whether it has heard its peers, and holds every entry of its own that they have."""
        return self.over and not self.lacks_own

    @property
    def unheard(self) -> list[str]:
        """Peers of which nothing was heard since the start."""
        return sorted(peer for peer, link in self._links.items() if link.status.heard_ms == 0)

    @property
    def reason(self) -> str:
        """What is waited for."""
        if not self.over:
            return f"{self._region} has just started and has not yet heard {', '.join(self.unheard)}"
        return (
            f"{self._region} has lost entries that its peers hold, up to {self._own_elsewhere}; "
            "it takes no writes until it has them back"
        )
