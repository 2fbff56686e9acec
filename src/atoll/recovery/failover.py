"""A region whose database has another's place taken while its nodes run: a standby was promoted, a copy put there.

What was acknowledged last may be missing in it, while peers hold it already. So each node, by itself, starts over from
what it still knew: it goes back to the position that the database is at, opens every link anew, so that what peers have
received and not stored yet is dropped there, and takes no write before all peers have said what they hold of the region
and that much is back. Reads go on. Once one node has come through, the store says so to the others and to later runs.

The same database, started again, is asked about in the same way, but not waited for longer than at a node's start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from atoll.errors import AtollError, StoreCorrupt, Unavailable
from atoll.ids.after_restore import counters_after_failover

_AGAIN_S = 0.5
"""Between two attempts while the store does not answer, and between two looks whether another node has come through."""


class Histories(Protocol):
    """The part of the store that is needed here."""

    async def history(self) -> str: ...
    async def history_taken_up(self) -> str: ...
    async def take_up(self, history: str, counters: Mapping[str, int]) -> None: ...
    async def counter(self, name: str) -> int: ...


class FailoverRecovery:
    """Of one node. `open` it, `run` it; `history_changed` may be called at any time."""

    def __init__(
        self,
        region: str,
        peers: Iterable[str],
        store: Histories,
        *,
        back: Callable[[], Awaitable[int]],
        anew: Callable[[], None],
        covered: Callable[[Mapping[str, int]], Awaitable[None]],
        forked: Callable[[], Awaitable[str]],
        trust: Callable[[str], int],
        now_ms: Callable[[], int],
        patience_s: float,
    ) -> None:
        """`back` goes to the database's position, and returns how far its clock had come (unix milliseconds); `anew`
        opens all links anew; `covered` waits until the region has seen a vector; `forked` says which of
        its own entries peers know as others, see `region.lineage`; `trust` lets writes into a history,
        and returns the region's own position in it."""
        self.turns = 0
        """How often the database's place was taken."""
        self.kept = 0
        """The region's own position when it last took a history up: what it had given out beyond is gone for good."""
        self.taken_up = 0
        """How often that was."""
        self._region = region
        self._peers = frozenset(peers)
        self._store = store
        self._back, self._anew, self._covered, self._trust = back, anew, covered, trust
        self._forked = forked
        self._fault = ""
        self._now_ms = now_ms
        self._patience_s = patience_s
        self._present = ""
        self._lossy = False
        """Whether commits are missing for certain."""
        self._pending = False
        self._awaited: set[str] = set()
        self._forgone: set[str] = set()
        self._own = 0
        self._history_changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._passed = asyncio.Event()
        self._passed.set()

    async def open(self) -> None:
        """Look whether the database is still in the history that the region took up. Raises what the store raises."""
        present = await self._store.history()
        if _line(present) == _line(await self._store.history_taken_up()):
            self._present = present
            self.kept = self._trust(present)
        else:
            self.history_changed(present)

    def history_changed(self, history: str, *, lossy: bool = False) -> None:
        """The database is in this history now. `lossy`: it lacks what this node had seen."""
        if history == self._present and not lossy:
            return
        self._present = history
        self._lossy = self._lossy or lossy
        self._pending = True
        self._passed.clear()
        self.turns += 1
        self._history_changed.set()

    def heard(self, peer: str, vector: Mapping[str, int]) -> None:
        """A peer said what it has stored, on a link that was opened since."""
        if peer in self._awaited:
            self._awaited.discard(peer)
            self._own = max(self._own, vector.get(self._region, 0))
            self._heard.set()

    def forgo(self, peer: str) -> None:
        """The operator says that this peer is gone for good: nobody waits for it."""
        self._forgone.add(peer)
        self._heard.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._history_changed.wait()
            self._history_changed.clear()
            try:
                await self._go_through(self._present)
            except AtollError:
                await asyncio.sleep(_AGAIN_S)
                self._history_changed.set()

    async def _go_through(self, history: str) -> None:
        clock_ms = await self._back()
        self._own = 0
        self._awaited = set(self._peers)
        self._anew()
        await self._all_heard(history)
        self._fault = await self._forked()
        if self._fault:
            raise StoreCorrupt(self._fault)
        await self._covered({self._region: self._own})
        if self._history_changed.is_set():
            return
        if await self._may_lack(history):
            await self._store.take_up(history, await self._counters(clock_ms))
        if not self._history_changed.is_set():
            self._lossy = self._pending = False
            self._awaited.clear()
            self.kept = self._trust(history)
            self.taken_up += 1
            self._passed.set()

    async def _all_heard(self, history: str) -> None:
        """Of a database that was only started again, peers that are out of reach are not waited for."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._patience_s
        while self._awaited - self._forgone and not self._history_changed.is_set():
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self._heard.wait()
            if loop.time() >= end_s and not await self._may_lack(history):
                return

    async def _may_lack(self, history: str) -> bool:
        return self._lossy or _line(await self._store.history_taken_up()) != _line(history)

    async def _counters(self, clock_ms: int) -> dict[str, int]:
        return counters_after_failover(
            await self._store.counter("ids"), last_ms=clock_ms, now_ms=self._now_ms()
        )

    @property
    def pending(self) -> bool:
        return self._pending

    @property
    def reason(self) -> str:
        """What is waited for."""
        if self._fault:
            return (
                f"the database of {self._region} was replaced, and the region cannot take part: {self._fault}"
            )
        waiting = sorted(self._awaited - self._forgone)
        what = f"has not yet heard {', '.join(waiting)}" if waiting else "is taking its own entries back"
        return f"the database of {self._region} was replaced or started again, and the region {what}"

    async def passed(self) -> None:
        """Wait until writes may be taken. Raises Unavailable when that takes longer than a mere restart does."""
        if self._pending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s + 2 * _AGAIN_S):
                    await self._passed.wait()
            self.check()

    def check(self) -> None:
        """Raises Unavailable while no write may be taken."""
        if self._pending:
            raise Unavailable(f"{self.reason}: it takes no writes before", region=self._region)


def _line(history: str) -> str:
    """Without the run."""
    return history.rpartition("/")[0]
