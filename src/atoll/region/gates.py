"""Whether reads and writes may be served here: every part that may close one is asked, in this one place.

A part registers a function that returns why it closes reads, or writes, at present, as a whole sentence; None while it
does not. Reads ask before and after they look into the store. Writes ask before they queue, and once more inside their
commit. What `/health/…` answers is derived from the same functions.

That all gates were found open is remembered until one calls `closing`. Requests then ask only those that time closes,
once in an iteration of the event loop: many requests are often answered in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from atoll.errors import Unavailable

Ask = Callable[[], str | None]
"""Why a part closes at present; None while it does not. Asked for every request: it must be quick, and not raise."""


class _Gate(NamedTuple):
    ask: Ask
    error: type[Unavailable]
    wait: Callable[[], Awaitable[None]] | None


def _next_iteration(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


class Gates:
    """Of one node."""

    def __init__(
        self, region: str, next_iteration: Callable[[Callable[[], None]], None] = _next_iteration
    ) -> None:
        """`next_iteration` calls a function in the next iteration of the event loop."""
        self.draining = False
        """Whether the operator wants no more requests to come here; those that come are served."""
        self.broken: str | None = None
        """Why work in the background has ended, which it never should."""
        self.closings = 0
        """How often a gate has closed, for writes at least."""
        self._reads_closings = 0
        """How often for reads: one that began before a closing and ended after it is not to be trusted."""
        self._region = region
        self._reads_open = False
        """Whether all of `_reads` were found open, and none has called `closing` since."""
        self._writes_open = False
        """The same of all gates."""
        self._reads: tuple[Ask, ...] = ()
        self._timed_reads: tuple[Ask, ...] = ()
        """Those of `_reads` that time alone closes, without a call of `closing`."""
        self._writes: tuple[_Gate, ...] = ()
        self._timed: tuple[Ask, ...] = ()
        """Those of all gates that time alone closes."""
        self._next_iteration = next_iteration
        self._admitted = False
        """Whether all of `_timed` were found open in this iteration of the event loop."""
        self._advice: tuple[Ask, ...] = ()
        self._orders: _Gate | None = None

    def register(
        self,
        *,
        reads: Ask | None = None,
        timed: bool = False,
        writes: Ask | None = None,
        wait: Callable[[], Awaitable[None]] | None = None,
        error: type[Unavailable] = Unavailable,
    ) -> None:
        """A part that may close. What closes reads closes writes, too: it need not be given twice.

        `wait` is awaited, while writes are closed, before one is refused: it returns when they may be open, or when
        that takes too long. A gate that closes while the region runs also calls `closing`, unless it is `timed`.
        """
        self._reads_open = self._writes_open = False
        if reads is not None:
            self._reads += (reads,)
            self._timed_reads += (reads,) if timed else ()
            self._timed += (reads,) if timed else ()
        if writes is not None:
            self._writes += (_Gate(writes, error, wait),)
            self._timed += (writes,) if timed else ()

    def keep_order(self, ask: Ask, wait: Callable[[], Awaitable[None]]) -> None:
        """While `ask` gives a reason, nothing is decided for documents that the region owns."""
        self._orders = _Gate(ask, Unavailable, wait)

    async def ordered(self) -> None:
        """Before the region decides something as the owner of a document. Raises Unavailable."""
        if self._orders is None or self._orders.ask() is None:
            return
        assert self._orders.wait is not None
        await self._orders.wait()
        reason = self._orders.ask()
        if reason is not None:
            raise Unavailable(reason, region=self._region)

    def advise(self, writes: Ask) -> None:
        """Writes are tried here all the same, but load balancers had better send them elsewhere."""
        self._advice += (writes,)

    def closing(self, *, reads: bool) -> None:
        """To be called when a gate closes that was open, before anything else is awaited."""
        self.closings += 1
        self._reads_closings += reads
        self._writes_open = False
        if reads:
            self._reads_open = False

    # -- asked by every request ------------------------------------------------------------------------

    def enter(self) -> int:
        """Before a read. Returns what `leave` takes. Raises Unavailable."""
        if not self._reads_open or self._timed_reads:
            self._check_reads()
        return self._reads_closings

    def leave(self, entered: int) -> None:
        """After a read, before anything of it is shown. Raises Unavailable when a gate has closed in between."""
        if self._timed_reads or self._reads_closings != entered:
            self._check_reads()  # it may know the reason
        if self._reads_closings != entered:
            raise Unavailable(
                f"{self._region} stopped serving while it was read; try again", region=self._region
            )

    def _check_reads(self) -> None:
        for ask in self._timed_reads if self._reads_open else self._reads:
            reason = ask()
            if reason is not None:
                raise Unavailable(reason, region=self._region)
        self._reads_open = True

    def admits_writes(self) -> bool:
        """Whether a write may be committed at once. False also when that is not known: `admit` finds out."""
        if not self._writes_open:
            return False
        if self._admitted:
            return True
        for ask in self._timed:
            if ask() is not None:
                return False
        self._admitted = True
        self._next_iteration(self._iterated)
        return True

    def _iterated(self) -> None:
        self._admitted = False

    def check_writes(self) -> None:
        """Raises Unavailable while no write may be committed here."""
        if self.admits_writes():
            return
        self._check_reads()
        for gate in self._writes:
            reason = gate.ask()
            if reason is not None:
                raise gate.error(reason, region=self._region)
        self._writes_open = True

    async def wait(self) -> None:
        """Until writes may be open, or that takes too long. Raises what the waits of the gates raise."""
        for gate in self._writes:
            if gate.wait is not None and gate.ask() is not None:
                await gate.wait()

    async def admit(self) -> None:
        """Before a write: waits at gates that may soon open. Raises Unavailable when it may not be committed."""
        self.enter()
        await self.wait()
        self.check_writes()

    # -- derived ---------------------------------------------------------------------------------------

    @property
    def reads_closed(self) -> str | None:
        """Why not even reads should be sent here; None when they should."""
        if self.draining:
            return "draining"
        return _first(self._reads) or self.broken

    @property
    def closed(self) -> str | None:
        """Why a load balancer should send nobody here; None when it should."""
        return self.reads_closed or _first(gate.ask for gate in self._writes) or _first(self._advice)

    @property
    def whole(self) -> bool:
        """Whether documents here are what the region's vector says."""
        return _first(self._reads) is None


def _first(asked: Iterable[Ask]) -> str | None:
    return next((reason for ask in asked if (reason := ask()) is not None), None)
