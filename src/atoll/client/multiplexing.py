"""Requests that come while others are under way share the next exchange with their region.

An exchange over HTTP costs a client several times what it does with the answer. So a client that has many calls
under way sends them together. It is transparent: each has its own answer, deadline and error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from atoll.client import multiplex
from atoll.client.multiplex import AnswerReader, Asked
from atoll.client.options import ClientOptions
from atoll.client.transport import CLOSED, Request, Response, Stream, Transport
from atoll.errors import (
    AtollError,
    ConfigError,
    Indefinite,
    MalformedRequest,
    Overloaded,
    RegionUnreachable,
    TooLarge,
)

_UNANSWERED = 2
"""Shared exchanges of which nothing has come back yet: one is on its way while the other is being worked on."""
_PATIENCE_S = 0.02
"""After this, what takes long (a wait for a token, another region's answer) no longer keeps others back."""
_ALONE_FROM_BYTES = 64 << 10
"""A body of this size would hold up the others."""
_SHARED_BYTES = 1 << 20
_SHARED = 64
_HEADROOM_BYTES = 64 << 10
"""For the headers of an answer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: Request
    answer: asyncio.Future[Response | None]
    """None: it has to be sent alone, and nothing has happened yet."""


@dataclass(slots=True)
class _Lane:
    """To one region."""

    under_way: int = 0
    """Requests, whether alone or with others."""
    unanswered: int = 0
    waiting: deque[_Waiting] = field(default_factory=deque)
    refused: bool = False
    """The region, or what stands before it, takes no shared exchanges."""

    def next(self) -> list[_Waiting]:
        """Those that share the next exchange."""
        taken: list[_Waiting] = []
        size_bytes = 0
        while self.waiting and len(taken) < _SHARED and size_bytes < _SHARED_BYTES:
            one = self.waiting.popleft()
            if not one.answer.done():
                taken.append(one)
                size_bytes += len(one.request.body)
        return taken


class Multiplexed:
    """A `Transport` over another one. It belongs to one event loop, until it is told to `forget` it."""

    def __init__(self, inner: Transport, options: ClientOptions) -> None:
        self._inner = inner
        self._options = options
        self._lanes: dict[str, _Lane] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    async def send(self, request: Request) -> Response:
        lane = self._lanes.setdefault(request.region, _Lane())
        busy = lane.under_way >= self._options.multiplex_beyond
        lane.under_way += 1
        try:
            if busy and not lane.refused and _may_share(request):
                answer = await self._shared(request, lane)
                if answer is not None:
                    return answer
            return await self._inner.send(request)
        finally:
            lane.under_way -= 1

    def stream(self, request: Request) -> AbstractAsyncContextManager[Stream]:
        return self._inner.stream(request)

    async def close(self) -> None:
        for lane in self._lanes.values():
            for one in lane.waiting:
                if not one.answer.done():
                    one.answer.set_exception(ConfigError(CLOSED))
            lane.waiting.clear()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        await self._inner.close()

    def forget(self) -> None:
        self._lanes.clear()
        self._carrying.clear()
        self._inner.forget()

    async def _shared(self, request: Request, lane: _Lane) -> Response | None:
        one = _Waiting(request, asyncio.get_running_loop().create_future())
        lane.waiting.append(one)
        self._carry_on(request.region, lane)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await one.answer
        except TimeoutError:
            if one in lane.waiting:
                lane.waiting.remove(one)
                raise Overloaded(
                    "not sent in time: too many other calls are in flight; send fewer at once"
                ) from None
            raise Indefinite("no answer in time") from None

    def _carry_on(self, region: str, lane: _Lane) -> None:
        """Begin an exchange for those who wait, unless one that has begun is to be waited for."""
        if lane.waiting and lane.unanswered < _UNANSWERED:
            lane.unanswered += 1
            task = asyncio.create_task(self._carry(region, lane))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    async def _carry(self, region: str, lane: _Lane) -> None:
        counted = True

        def answered() -> None:
            nonlocal counted
            if counted:
                counted = False
                lane.unanswered -= 1
                self._carry_on(region, lane)

        await asyncio.sleep(0)  # calls of the same turn of the event loop share the exchange
        late = asyncio.get_running_loop().call_later(_PATIENCE_S, answered)
        try:
            if shared := lane.next():
                await self._exchange(region, lane, shared, answered)
        finally:
            late.cancel()
            answered()

    async def _exchange(
        self, region: str, lane: _Lane, shared: list[_Waiting], answered: Callable[[], None]
    ) -> None:
        failure: AtollError = Indefinite("the connection ended before this was answered")
        try:
            async with self._inner.stream(_together(region, shared, self._options)) as stream:
                if stream.status == 200:
                    await self._take(stream, shared, answered)
                elif 400 <= stream.status < 500:
                    # An older region, or a gateway that lets some paths through: nothing has happened.
                    lane.refused = True
                    _settle(shared, None)
                else:
                    body = b"".join([chunk async for chunk in stream.chunks])
                    _settle(shared, Response(stream.status, stream.headers, body))
        except (RegionUnreachable, Indefinite, TooLarge, ConfigError) as error:
            failure = error
        except MalformedRequest as error:
            failure = Indefinite(f"what came is not what was asked for: {error.message}")
        finally:
            for one in shared:
                if not one.answer.done():
                    one.answer.set_exception(type(failure)(failure.message))

    async def _take(self, stream: Stream, shared: list[_Waiting], answered: Callable[[], None]) -> None:
        reader = AnswerReader(self._options.response_bytes + _HEADROOM_BYTES)
        async for chunk in stream.chunks:
            for found in reader.feed(chunk):
                if not 0 <= found.number < len(shared):
                    raise MalformedRequest(f"it answers request {found.number} of {len(shared)}")
                waiting = shared[found.number].answer
                if not waiting.done():
                    waiting.set_result(Response(found.status, found.headers, found.body))
                answered()


def _may_share(request: Request) -> bool:
    """Of reads only those of one document: a listing may be large, and take long."""
    parts = request.path.count("/")
    return len(request.body) < _ALONE_FROM_BYTES and (parts == 3 if request.method == "GET" else parts >= 2)


def _together(region: str, shared: list[_Waiting], options: ClientOptions) -> Request:
    asked = [
        Asked(each.method, each.path, each.query, dict(each.headers), each.body)
        for each in (one.request for one in shared)
    ]
    headers = {**options.headers, "content-type": multiplex.CONTENT_TYPE}
    timeout_s = max(one.request.timeout_s for one in shared)
    return Request(region, "POST", multiplex.PATH, "", headers, multiplex.encode_asked(asked), timeout_s)


def _settle(shared: list[_Waiting], answer: Response | None) -> None:
    for one in shared:
        if not one.answer.done():
            one.answer.set_result(answer)
