"""What a region sends of its journal to a peer that asks, and what it lets go of that the peer has lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from atoll.causality.origin import incarnation_of, region_of
from atoll.region.intake import Intake
from atoll.region.recovery import FailoverRecovery
from atoll.region.site import Site
from atoll.replication import source
from atoll.replication.link import Link
from atoll.replication.messages import StreamRequest
from atoll.replication.signal import Signal
from atoll.replication.wire import FrameWriter, Heartbeat
from atoll.store.port import Journal


class JournalSender:
    """The other ends of the peers' links."""

    def __init__(
        self,
        site: Site,
        links: Mapping[str, Link],
        store: Journal,
        intake: Intake,
        *,
        failover: FailoverRecovery,
        let_go: Callable[[StreamRequest], Awaitable[None]],
        says: Callable[[], tuple[dict[str, int], dict[str, int], bool]],
        committed: Signal,
    ) -> None:
        """`let_go` gives up what lies aside of what a peer has lost.

        `says` tells as of when the region knows each other one, the ends of former incarnations, and whether documents
        show what the vector says.
        """
        self._region = site.name
        self._links = links
        self._store = store
        self._intake = intake
        self._failover = failover
        self._let_go = let_go
        self._says = says
        self._committed = committed
        self._now_ms = site.now_ms
        self._incarnations: dict[str, int] = {}
        """peer → the latest one under which it asked."""
        self._writer = FrameWriter(site.link_key)
        self._heartbeat_s = site.options.heartbeat_s

    async def stream(self, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        """This region's journal for one peer, as frames of `replication.wire`.

        A peer that asks with fewer entries of its own than wait here has lost them. It counts as lost what nobody
        has stored: so that must not be applied any more.
        """
        if request.region in self._links:
            self._links[request.region].reachable()
            await self._reopened(request)
            await self._discard_pending(request.region, request.vector)
            await self._let_go(request)
        turns = self._failover.state.turns
        chunks = source.stream(
            self._store,
            request,
            self._committed,
            self._heartbeat,
            self._writer,
            heartbeat_s=self._heartbeat_s,
        )
        async for chunk in chunks:
            if turns != self._failover.state.turns:
                return  # the journal that was read is another database's
            yield chunk

    async def _reopened(self, request: StreamRequest) -> None:
        """Have nothing come any more that the peer sent before it began to number as it does.

        The link is reopened once for each incarnation, however often this call is cut short. Else two regions that both
        begin one would cut each other's links for ever.
        """
        link, incarnation = self._links[request.region], incarnation_of(request.numbers)
        known = self._incarnations.get(request.region, incarnation - request.anew)
        self._incarnations[request.region] = max(incarnation, known)
        if incarnation > known:
            link.reopen()
        await link.reopened()

    async def _discard_pending(self, peer: str, past: Mapping[str, int]) -> None:
        while True:
            if self._intake.discard_pending(peer, past):
                # At once, for this call may be cut short. What another peer has stored of them it is to send again.
                for name, link in self._links.items():
                    if name == peer or peer in map(region_of, link.status.relays):
                        link.reopen()
            if not self._intake.in_flight(peer, past):
                return
            await self._intake.await_commit()  # then its entries are stored, or wait again

    async def _heartbeat(self) -> Heartbeat:
        # The moment comes first: whatever any node had committed by then is in the vector.
        now_ms = self._now_ms()
        as_of, ends, whole = (
            self._says()
        )  # before the positions: what is installed by then may not be shown yet
        positions = await self._store.positions()
        return Heartbeat(self._region, now_ms, positions, as_of, ends, whole and self._says()[2])
