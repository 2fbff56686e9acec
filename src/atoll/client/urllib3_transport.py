"""Requests over urllib3, for callers without an event loop: a pool of connections per region."""

from __future__ import annotations

import http.client
import os
import queue
import ssl
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import urllib3
from urllib3 import exceptions

from atoll.client.nodes import NodeUrls
from atoll.client.options import ClientOptions
from atoll.client.transport import CLOSED, Request, Response, SyncStream
from atoll.errors import AtollError, ConfigError, Indefinite, RegionUnreachable, TooLarge

_CHUNK_BYTES = 1 << 16


class _Idle(queue.LifoQueue[Any]):
    """Connections that are kept for later calls, without a lock.

    A signal's handler that raises amid a call, or a fork beside one, would leave a lock held for ever.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize  # what is beyond is closed, and no call waits
        self._kept: deque[Any] = deque()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._kept.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if len(self._kept) < self.maxsize:
            self._kept.append(item)
        elif item is not None:
            item.close()


class _Plain(urllib3.HTTPConnectionPool):
    QueueCls = _Idle  # type: ignore[assignment]  # declared for queues of an unbound type


class _Secure(urllib3.HTTPSConnectionPool):
    QueueCls = _Idle  # type: ignore[assignment]  # as above


class Urllib3Transport:
    """A `SyncTransport`, usable from several threads, and in each process that is forked with it.

    A connection that two processes write to gives one of them the other's answer. So each has its own.
    """

    def __init__(self, urls: Mapping[str, str | Sequence[str]], options: ClientOptions) -> None:
        """`urls`: by region; of several nodes, one after the other is asked until one can be connected to."""
        self._urls = NodeUrls(urls)
        self._options = options
        self._closed = False
        self._process = self._pools_of(os.getpid())

    def send(self, request: Request) -> Response:
        for left in reversed(range(self._urls.count(request.region))):
            url = self._urls.of(request.region)
            try:
                return self._send(request, url)
            except RegionUnreachable:
                self._urls.leave(request.region, url)
                if not left:
                    raise
            except Indefinite:
                self._urls.leave(request.region, url)
                raise
        raise AssertionError

    def _send(self, request: Request, url: str) -> Response:
        seconds = request.timeout_s
        timeout = urllib3.Timeout(connect=min(self._options.connect_timeout_s, seconds), read=seconds)
        bound_bytes = self._options.response_bytes
        try:
            response = self._begin(request, url, timeout)
            with response:  # given back when read to its end, else closed
                body = response.read(bound_bytes + 1)
                if len(body) > bound_bytes:
                    response.close()
                    raise TooLarge(
                        f"the answer of {request.region} has more than {bound_bytes} bytes;"
                        " request less at once (limit=), or raise response_bytes in ClientOptions",
                        limit_bytes=bound_bytes,
                    )
                return Response(response.status, response.headers, body)
        except exceptions.HTTPError as error:
            raise _translated(error) from error

    @contextmanager
    def stream(self, request: Request) -> Iterator[SyncStream]:
        timeout = urllib3.Timeout(connect=self._options.connect_timeout_s, read=request.timeout_s)
        url = self._urls.of(request.region)
        try:
            opened = self._begin(request, url, timeout)
        except exceptions.HTTPError as error:
            self._urls.leave(request.region, url)
            raise _translated(error) from error
        try:
            yield SyncStream(opened.status, opened.headers, _chunks(opened))
        finally:
            opened.close()

    def close(self) -> None:
        self._closed = True
        pid, pools = self._process
        if pid == os.getpid():
            for pool in pools.values():
                pool.close()

    def _pools_of(self, pid: int) -> tuple[int, dict[str, urllib3.HTTPConnectionPool]]:
        return pid, {url: self._pool(url) for url in self._urls.all()}

    def _pool(self, url: str) -> urllib3.HTTPConnectionPool:
        scheme, _, host, port, *_ = urllib3.util.parse_url(url)
        if host is None:
            raise exceptions.LocationValueError(f"{url} names no host")
        if scheme == "https":
            tls = self._options.tls
            return _Secure(host, port or 443, maxsize=self._options.connections, ssl_context=tls)
        return _Plain(host, port or 80, maxsize=self._options.connections)

    def _begin(self, request: Request, url: str, timeout: urllib3.Timeout) -> urllib3.BaseHTTPResponse:
        if self._closed:
            raise ConfigError(CLOSED)
        pid, pools = self._process
        if pid != os.getpid():
            _, pools = self._process = self._pools_of(os.getpid())
        return pools[url].urlopen(
            request.method,
            f"{request.path}?{request.query}" if request.query else request.path,
            body=request.body or None,
            headers=request.headers,
            retries=False,
            redirect=False,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
        )


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    pid = os.getpid()
    try:
        for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
            yield chunk
            if pid != os.getpid():
                raise Indefinite("the stream is that of the process that this one was forked from")
    except exceptions.HTTPError as error:
        raise _translated(error) from error


def _translated(error: exceptions.HTTPError) -> AtollError:
    match error:
        case exceptions.NewConnectionError() | exceptions.ConnectTimeoutError():
            return RegionUnreachable(f"not reached ({error})")
        case exceptions.SSLError() if isinstance(error.args[0], ssl.SSLCertVerificationError):
            return RegionUnreachable(f"not reached ({error})")
        case exceptions.ReadTimeoutError():
            return Indefinite("no answer in time")
        case exceptions.ProtocolError() if _is_not_http(error):
            return ConfigError(f"what answers there does not speak HTTP ({error}); check the region's url")
        case exceptions.ClosedPoolError():
            return ConfigError(CLOSED)
        case exceptions.LocationParseError() | exceptions.LocationValueError():
            return ConfigError(f"the request cannot be written ({error})")
        case _:
            return Indefinite(f"the connection broke ({error})")


def _is_not_http(error: exceptions.ProtocolError) -> bool:
    cause = error.args[-1] if error.args else None
    return isinstance(cause, http.client.BadStatusLine) and not isinstance(
        cause, http.client.RemoteDisconnected
    )
