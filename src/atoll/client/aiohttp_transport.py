"""Requests over aiohttp: connections are pooled and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf

import aiohttp
from yarl import URL

from atoll.client.nodes import NodeUrls
from atoll.client.options import ClientOptions
from atoll.client.transport import CLOSED, Request, Response, Stream
from atoll.errors import AtollError, ConfigError, Indefinite, Overloaded, RegionUnreachable, TooLarge
from atoll.replication.beside import in_pieces

_NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a request when a kept connection breaks.

    Its second attempt may end in a refused connection, as if nothing had been sent. The write would then be
    repeated in another region, although the first region may have executed it.
    """
    try:
        return await handler(request)
    except _NOT_REACHED:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Indefinite(f"the connection broke after the request was sent ({_told(error)})") from error


class AiohttpTransport:
    """A `Transport`. It belongs to one event loop, until it is told to `forget` it."""

    def __init__(self, urls: Mapping[str, str | Sequence[str]], options: ClientOptions) -> None:
        """`urls`: by region; of several nodes, one after the other is asked until one can be connected to."""
        self._urls = NodeUrls(urls)
        self._options = options
        self._connect_s = options.connect_timeout_s
        # Waiting in aiohttp's own queue would count as time in which the region does not answer.
        self._slots = asyncio.Semaphore(options.connections)
        self._client: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(self, request: Request) -> Response:
        for left in reversed(range(self._urls.count(request.region))):
            url = self._urls.of(request.region)
            try:
                return await self._send(request, url)
            except RegionUnreachable:
                self._urls.leave(request.region, url)
                if not left:
                    raise
            except Indefinite:
                self._urls.leave(request.region, url)
                raise
        raise AssertionError

    async def _send(self, request: Request, url: str) -> Response:
        left_s = await self._slot(request)
        seconds = min(request.timeout_s, left_s)
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(self._connect_s, seconds))
        try:
            async with self._begin(request, url, timeout) as response:
                if response.content_length is None:
                    body = await self._bounded(request, response)
                else:
                    self._check_size(request, response.content_length)
                    body = await response.read()
                return Response(response.status, response.headers, body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _translated(error) from error
        finally:
            self._slots.release()

    async def _slot(self, request: Request) -> float:
        """Wait for one of the connections; returns what is left of the caller's patience."""
        if not self._slots.locked():
            await self._slots.acquire()
            return request.patience_s
        loop = asyncio.get_running_loop()
        end_s = loop.time() + request.patience_s
        try:
            async with asyncio.timeout(None if request.patience_s == inf else request.patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded(
                f"all {self._options.connections} connections were in use for {request.patience_s:.1f} s; "
                "raise connections in ClientOptions, or send fewer requests at once"
            ) from None
        return max(end_s - loop.time(), 0.001)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s, sock_read=request.timeout_s)
        url = self._urls.of(request.region)
        try:
            opened = await self._begin(request, url, timeout)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._urls.leave(request.region, url)
            raise _translated(error) from error
        try:
            yield Stream(opened.status, opened.headers, self._chunks(opened))
        finally:
            opened.close()

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            await self._client.close()

    def __del__(self) -> None:
        """A loop that is over can close nothing, and aiohttp would log that as an error of the program."""
        client = getattr(self, "_client", None)
        if client is not None and client._loop.is_closed():
            self.forget()

    def forget(self) -> None:
        self._slots = asyncio.Semaphore(self._options.connections)
        if self._client is not None:
            # aiohttp would close them through their event loop. In a forked process that loop's selector is shared
            # with the parent, which would no longer hear its own connections.
            connector = self._client.connector
            self._client.detach()
            self._client = None
            if connector is not None:
                connector._conns.clear()

    def _begin(
        self, request: Request, url: str, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        if self._closed:
            raise ConfigError(CLOSED)
        client = self._client or self._open()
        url += request.path
        if request.query:
            url = f"{url}?{request.query}"
        return client.request(
            request.method,
            # Encoded already: aiohttp would turn the %2F in a key into a slash.
            URL(url, encoded=True),
            headers=request.headers,
            data=in_pieces(request.body) or None,
            timeout=timeout,
            allow_redirects=False,
        )

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # `_slots` bounds them
            ssl=True if self._options.tls is None else self._options.tls,
        )
        self._client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            auto_decompress=False,
            middlewares=(_send_once,),
        )
        return self._client

    async def _bounded(self, request: Request, response: aiohttp.ClientResponse) -> bytes:
        chunks, size_bytes = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size_bytes += len(chunk)
            self._check_size(request, size_bytes)
        return b"".join(chunks)

    def _check_size(self, request: Request, size_bytes: int) -> None:
        bound_bytes = self._options.response_bytes
        if size_bytes > bound_bytes:
            raise TooLarge(
                f"the answer of {request.region} has more than {bound_bytes} bytes;"
                " request less at once (limit=), or raise response_bytes in ClientOptions",
                limit_bytes=bound_bytes,
            )

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _translated(error) from error


def _translated(error: Exception) -> AtollError:
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return RegionUnreachable(f"not reached ({_told(error)})")
        case TimeoutError():
            return Indefinite("no answer in time")
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return Indefinite(f"the connection broke ({_told(error)})")
        case aiohttp.ClientResponseError():
            return ConfigError(
                f"what answers there does not speak HTTP ({_told(error)}); check the region's url"
            )
        case aiohttp.InvalidURL() | ValueError():
            return ConfigError(f"the request cannot be written ({_told(error)})")
        case _:
            return Indefinite(f"the exchange failed ({_told(error)})")


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
