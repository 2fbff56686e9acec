"""Waits until a majority of regions holds what this region has written, or has shown.

A saga acts outside only after that, so that whoever takes it over knows of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from atoll.causality.origin import Origin
from atoll.errors import AtollError, Indefinite
from atoll.membership.members import Members
from atoll.region.progress import Progress
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.replication.link import Linked
from atoll.replication.messages import HeldCall, HeldReply

_RETRY_S = 0.1


class SagaAcks:
    """Of one node. `close` it."""

    def __init__(
        self,
        site: Site,
        members: Members,
        links: Mapping[str, Linked],
        progress: Progress,
        origin: Callable[[], Origin],
    ) -> None:
        """`origin` tells under which the region numbers at present."""
        self._site = site
        self._members = members
        self._links = links
        self._progress = progress
        self._origin = origin
        self._held: dict[str, dict[str, int]] = {}
        """Peer → what it is known to hold of this region's entries, by origin."""
        self._waiting: dict[asyncio.Future[bool], tuple[Origin, int]] = {}
        self._asking: set[str] = set()
        self._tasks = Tasks()

    @property
    def position(self) -> tuple[Origin, int]:
        """The region's last entry, as far as this node knows."""
        origin = self._origin()
        return origin, self._progress.vector.get(origin, 0)

    async def reached(self, place: tuple[Origin, int]) -> bool:
        """Return once a majority holds the entry. Of two regions none takes over alone, so there is no wait.

        False once this region itself has lost it: another database has taken the place of its own.
        """
        if self._is_held(place) or self._is_lost(place):
            return self._is_held(place)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[future] = place
        for peer in self._others():
            if peer not in self._asking:
                self._asking.add(peer)
                self._tasks.spawn(self._ask(peer), f"asks what {peer} holds")
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    async def reached_soon(self, place: tuple[Origin, int]) -> None:
        """As `reached`. Raises Indefinite if that takes too long."""
        try:
            async with asyncio.timeout(self._site.options.peer_timeout_s):
                if await self.reached(place):
                    return
        except TimeoutError:
            pass
        raise Indefinite(
            f"it is written in {self._site.name}, and no majority of regions holds it yet; send it again with the"
            " same idempotency key"
        )

    async def close(self) -> None:
        await self._tasks.close()
        self._asking.clear()

    async def _ask(self, peer: str) -> None:
        try:
            while any(not self._holds(peer, place) for place in self._waiting.values()):
                wanted: dict[str, int] = dict([self.position])
                for origin, seq in self._waiting.values():
                    wanted[origin] = max(seq, wanted.get(origin, 0))
                try:
                    reply = await self._site.ask(peer, HeldCall(wanted), HeldReply)
                except AtollError:
                    await asyncio.sleep(_RETRY_S)
                else:
                    self._held[peer] = reply.vector
                self._look()
                if peer not in self._members.regions:
                    return
        finally:
            self._asking.discard(peer)
            self._look()  # what its link announces ends the questions, too

    def _look(self) -> None:
        for future, place in self._waiting.items():
            held = self._is_held(place)
            if not future.done() and (held or self._is_lost(place)):
                future.set_result(held)

    def _is_lost(self, place: tuple[Origin, int]) -> bool:
        origin, seq = place
        return self._progress.vector.get(origin, 0) < seq

    def _is_held(self, place: tuple[Origin, int]) -> bool:
        members = len(self._members.regions)
        return members <= 2 or 2 * (1 + sum(self._holds(peer, place) for peer in self._others())) > members

    def _holds(self, peer: str, place: tuple[Origin, int]) -> bool:
        origin, seq = place
        link = self._links.get(peer)
        announced = 0 if link is None else link.status.advertised.get(origin, 0)
        return max(announced, self._held.get(peer, {}).get(origin, 0)) >= seq

    def _others(self) -> list[str]:
        return [region for region in self._members.regions if region != self._site.name]
