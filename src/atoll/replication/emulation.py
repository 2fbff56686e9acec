"""Delays and cuts between regions on test topologies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from atoll.errors import RegionUnreachable

_QUEUED_CHUNKS = 64


class Emulation:
    """What the network between this region and its peers is made to look like."""

    def __init__(self, region: str, one_way_s: Callable[[str], float]) -> None:
        """`one_way_s` tells the distance of a peer for which `delay` has set none."""
        self._region = region
        self._distance_s = one_way_s
        self._delays_s: dict[str, float] = {}
        self._cut: dict[str, asyncio.Event] = {}

    @property
    def cut(self) -> tuple[str, ...]:
        """Peers that cannot be reached at present."""
        return tuple(sorted(peer for peer, event in self._cut.items() if event.is_set()))

    def one_way_s(self, peer: str) -> float:
        delay_s = self._delays_s.get(peer)
        return self._distance_s(peer) if delay_s is None else delay_s

    def partition(self, peer: str, cut: bool) -> None:
        """Cut or heal this side of the link; streams that are open break at once."""
        event = self._cut.setdefault(peer, asyncio.Event())
        if cut:
            event.set()
        else:
            event.clear()

    def delay(self, peer: str, one_way_s: float) -> None:
        self._delays_s[peer] = one_way_s

    def check(self, peer: str) -> None:
        """Raises RegionUnreachable while cut off."""
        if peer in self._cut and self._cut[peer].is_set():
            raise RegionUnreachable(f"the link between {self._region} and {peer} is cut", region=peer)

    async def travel(self, peer: str) -> None:
        """One way to or from a peer."""
        self.check(peer)
        delay_s = self.one_way_s(peer)
        if delay_s:
            await asyncio.sleep(delay_s)
            self.check(peer)

    async def delayed(self, peer: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Each piece arrives one way's time after it was sent, in order; a cut ends the stream."""
        queue: asyncio.Queue[tuple[float, bytes] | BaseException] = asyncio.Queue()
        room = asyncio.Semaphore(_QUEUED_CHUNKS)
        loop = asyncio.get_running_loop()

        async def read() -> None:
            try:
                async for chunk in chunks:
                    await room.acquire()
                    queue.put_nowait((loop.time() + self.one_way_s(peer), chunk))
            except Exception as error:
                queue.put_nowait(error)
            else:
                queue.put_nowait(RegionUnreachable(f"{peer} ended the stream", region=peer))

        cut = asyncio.ensure_future(self._cut.setdefault(peer, asyncio.Event()).wait())
        # Wakes a reader that waits for a chunk: a task for each chunk, to wait for either, costs more than the chunk.
        cut.add_done_callback(
            lambda _: queue.put_nowait(RegionUnreachable(f"the link to {peer} was cut", region=peer))
        )
        reader = asyncio.ensure_future(read())
        try:
            while True:
                item = await queue.get()
                self.check(peer)
                if isinstance(item, BaseException):
                    raise item
                room.release()
                due, chunk = item
                if due > loop.time():
                    await asyncio.wait({cut}, timeout=due - loop.time())
                    self.check(peer)
                yield chunk
        finally:
            cut.cancel()
            reader.cancel()
            await asyncio.gather(cut, reader, return_exceptions=True)
