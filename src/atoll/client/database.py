"""The asynchronous client."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from random import Random, SystemRandom
from typing import Any, Self, TypeVar

from atoll.client.calls import Call, Calls
from atoll.client.endpoints import nearest_first
from atoll.client.exchange import Exchanges, Outcome, Pause, SessionState, Steps
from atoll.client.options import DEFAULTS, ClientOptions
from atoll.client.routing import Router
from atoll.client.transport import CLOSED, Transport
from atoll.client.verbs import Verbs
from atoll.config.config import RegionConfig
from atoll.errors import ConfigError, Indefinite, Overloaded, RegionUnreachable, TooLarge
from atoll.schema import Collection, Limits

M = TypeVar("M", bound=Collection)
T = TypeVar("T")


class Session(Verbs):
    """Reads see what the session has written and read before, in whatever region they end up.

    Calls wait for one another: each builds on what the one before has seen. Collections that are only
    eventually consistent are read with `consistency="session"` here.
    """

    def __init__(self, database: Database, token: str | None) -> None:
        super().__init__(database._session_calls, database._exchanges, database._transport)
        self._owner = database
        self._state = SessionState(token)
        self._turn = asyncio.Lock()
        self._loop = database._loop

    @property
    def token(self) -> str | None:
        """What the session has seen. `db.session(token)` continues it elsewhere, as in a browser's next request.
        None before the first answer."""
        return self._state.token

    @property
    def region(self) -> str | None:
        """The region that answered last."""
        return self._state.region

    @property
    def degraded(self) -> str | None:
        """Why the last answer was weaker than its collection's policy; None when it was not."""
        return self._state.degraded

    async def _run(self, call: Call[T], key: str | None = None) -> T:
        self._use()
        if self._loop is not self._owner._loop:
            if self._loop is not None:  # over, and so is whoever held the lock
                self._turn = asyncio.Lock()
            self._loop = self._owner._loop
        async with self._turn:
            return await self._answer(call, key)

    def _answer(self, call: Call[T], key: str | None) -> Coroutine[Any, Any, T]:
        return self._owner._drive(self._exchanges.run(call, self._state, key))

    def _use(self) -> None:
        self._owner._use()

    async def _sleep(self, seconds: float) -> None:
        await self._owner._sleep(seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Nothing to give back: a session is its token."""


class Database(Verbs):
    """A deployment: knows all regions, picks one, and moves on when it fails. Use it as a context manager.

    It belongs to the event loop that first uses it. Once that loop is over, or in a forked process, another one may
    use it, with connections of its own. Calls from a second loop, or after `close`, raise ConfigError.
    """

    _nowhere = "no asyncio event loop runs here; use connect_sync"

    def __init__(
        self,
        transport: Transport,
        endpoints: Sequence[RegionConfig],
        *,
        near: str | None = None,
        options: ClientOptions = DEFAULTS,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        new_key: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """`near` is the region to prefer; without it, the one that is quickest to say it is well."""
        ordered = nearest_first(tuple(endpoints), near)
        random = random or SystemRandom()  # a generator's state would be the same in all forked processes
        exchanges = Exchanges(
            Router(tuple(endpoint.name for endpoint in ordered), options, random),
            {endpoint.name: endpoint.url for endpoint in ordered},
            options,
            clock=clock,
            random=random,
            new_key=new_key,
        )
        super().__init__(Calls(limits), exchanges, transport)
        self._measures = near is None and len(ordered) > 1
        self._session_calls = Calls(limits, in_session=True)
        self._asking: set[asyncio.Task[float | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._entered = False

    @property
    def regions(self) -> tuple[str, ...]:
        """All regions, the one that calls go to first in front."""
        return self._exchanges.router.order()

    def session(self, token: str | None = None) -> Session:
        """A session that has seen nothing, or what `token` says."""
        return Session(self, token)

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        if not self._exchanges.closed:
            self._use()
        self._exchanges.closed = True
        self._loop = None
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.gather(*self._asking, return_exceptions=True)
        await self._transport.close()

    async def __aenter__(self) -> Self:
        self._use()
        if self._entered:
            raise ConfigError("this client is open already; leave its `with` first, or connect once more")
        self._entered = True
        if self._measures:
            took = await self._ask_all(self.regions)
            self._exchanges.router.rank({region: s for region, s in took.items() if s is not None})
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    def _run(self, call: Call[T], key: str | None = None) -> Coroutine[Any, Any, T]:
        return self._drive(self._exchanges.run(call, None, key))

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _ask_all(self, regions: Sequence[str]) -> dict[str, float | None]:
        """The health of each region: seconds until it said yes, or None."""
        asked = [self._drive_steps(self._exchanges.ask_health(region)) for region in regions]
        return dict(zip(regions, await asyncio.gather(*asked), strict=True))

    def _ask_soon(self, region: str) -> None:
        """Ask for a region's health. No call waits for the answer."""
        task = asyncio.create_task(self._drive_steps(self._exchanges.ask_health(region)))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def _use(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigError(self._nowhere) from None
        if loop is not self._loop:
            self._move(loop)

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve this event loop from now on, if no other one is served."""
        if self._exchanges.closed:
            raise ConfigError(CLOSED)
        if self._loop is not None:
            if self._pid == os.getpid() and not self._loop.is_closed():
                raise ConfigError(
                    "this client belongs to another event loop; connect in this one too, or use connect_sync,"
                    " which threads may share"
                )
            self._asking.clear()
            self._transport.forget()
            self._entered = False
        self._loop, self._pid = loop, os.getpid()

    def _drive(self, steps: Steps[T]) -> Coroutine[Any, Any, T]:
        self._use()
        region = self._exchanges.region_to_ask()
        if region is not None:
            self._ask_soon(region)
        return self._drive_steps(steps)

    async def _drive_steps(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                    outcome = None
                    continue
                try:
                    outcome = await self._transport.send(step)
                except (RegionUnreachable, Overloaded, Indefinite, TooLarge, ConfigError) as error:
                    outcome = error
        except StopIteration as done:
            result: T = done.value
            return result
