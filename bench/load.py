"""A load generator for HTTP/1.1 servers on this machine: so many requests, over kept-alive connections.

It runs in a process of its own, so that it takes no time from the server or the caller, and speaks
through a bare asyncio protocol: general clients need longer for a request than the servers measured here.

    result = load("http://127.0.0.1:8401", get_document, requests=20_000)

`request` says what request number `n` is. It crosses a process boundary: a function at the top of a
module, or a `functools.partial` of one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from multiprocessing import get_context
from statistics import quantiles
from time import perf_counter, perf_counter_ns, process_time
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from atoll.errors import ConfigError
from bench.documents import document_body, document_key


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `path` with its query, headers beside `Host` and `Content-Length`."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body or self.method in {"PUT", "POST", "PATCH"}:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came back. Latencies are under full load: they hold the wait in the server's queue."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    statuses: Mapping[int, int]
    """How many answers had which status: look, before quoting a rate of errors."""
    generator_cpu: float
    """The generator's share of one core, 0–1. Near 1 it was the bottleneck, not the server."""
    started: float
    """When the first measured request left, by `perf_counter`, which all processes share on Linux."""

    @property
    def all_ok(self) -> bool:
        """Whether every answer was a success."""
        return all(200 <= status < 300 for status in self.statuses)


def load(
    url: str,
    request: Callable[[int], Request],
    *,
    requests: int = 20_000,
    connections: int = 64,
    warmup: int = 1_000,
) -> LoadResult:
    """Send `warmup` requests, then `requests` measured ones, one at a time on each connection.

    Numbers run from 0 through the warm-up and on, so that no number is sent twice.

    Raises:
        ConfigError: `url` is not plain HTTP on a loopback address, or a count is below one.
        OSError: a connection was refused, lost, or held no HTTP; nothing is retried.
    """
    address(url)
    if requests < 2 or connections < 1 or warmup < 0:
        raise ConfigError("a load needs at least 2 requests, 1 connection and 0 for the warm-up")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as generator:
        return generator.submit(_generate, url, request, requests, connections, warmup).result()


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or not parts.port or not (host == "localhost" or _is_loopback(host)):
        raise ConfigError(f"{url!r} is no address to load: give http://127.0.0.1:PORT", url=url)
    return host, parts.port


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _generate(
    url: str, request: Callable[[int], Request], requests: int, connections: int, warmup: int
) -> LoadResult:
    host, port = address(url)
    # Encoded beforehand: while the clock runs, the generator only writes and parses.
    encoded = [request(number).encode(f"{host}:{port}") for number in range(warmup + requests)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(host, port, encoded, connections, warmup))


async def _run(host: str, port: int, encoded: Sequence[bytes], connections: int, warmup: int) -> LoadResult:
    opened = await connected(host, port, connections)
    try:
        if warmup:
            await phase(opened, encoded[:warmup])
        cpu, started = process_time(), perf_counter()
        took_ns, statuses = await phase(opened, encoded[warmup:])
        elapsed, cpu = perf_counter() - started, process_time() - cpu
    finally:
        for connection in opened:
            connection.close()
    percentiles = quantiles(took_ns, n=100)
    return LoadResult(
        requests_per_second=len(took_ns) / elapsed,
        p50_ms=percentiles[49] / 1e6,
        p99_ms=percentiles[98] / 1e6,
        statuses=dict(sorted(statuses.items())),
        generator_cpu=cpu / elapsed,
        started=started,
    )


async def phase(opened: Sequence[Connection], encoded: Sequence[bytes]) -> tuple[list[int], Counter[int]]:
    """Send all of `encoded`, whichever connection is free taking the next; return times and statuses."""
    took_ns: list[int] = []
    statuses: Counter[int] = Counter()
    left = iter(encoded)
    await asyncio.gather(*(connection.work(left, took_ns, statuses) for connection in opened))
    return took_ns, statuses


class Connection(asyncio.Protocol):
    """One kept connection: writes a request, and the next one as soon as its answer is whole.

    A subclass reads answers, and calls `answered` for each.
    """

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None

    def work(self, left: Iterator[bytes], took_ns: list[int], statuses: Counter[int]) -> asyncio.Future[None]:
        """Begin to send from `left`; the future is done when nothing is left."""
        self._left, self._took_ns, self._statuses = left, took_ns, statuses
        self._done = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._done.set_exception(ConnectionResetError("the server closed a kept-alive connection"))
        else:
            self._next()
        return self._done

    def close(self) -> None:
        self._done = None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of `asyncio.Transport` and are none.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server closed a connection in use"))

    def answered(self, status: int) -> None:
        self._took_ns.append(perf_counter_ns() - self._sent_ns)
        self._statuses[status] += 1
        self._next()

    def garbled(self, why: str) -> None:
        """What came is no answer; nothing can be read from here on."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionAbortedError(why))
        self._transport.abort()

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def _next(self) -> None:
        request = next(self._left, None)
        if request is None:
            assert self._done is not None
            self._done.set_result(None)
            return
        self._sent_ns = perf_counter_ns()
        self.send(request)


class HttpConnection(Connection):
    """HTTP/1.1."""

    def __init__(self) -> None:
        super().__init__()
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.garbled(f"the answer is no HTTP/1.1: {error}")

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.answered(self._parser.get_status_code())


async def connected(
    host: str, port: int, count: int, kind: Callable[[], Connection] = HttpConnection
) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(kind, host, port))[1] for _ in range(count)]


def get_document(number: int, *, prefix: str = "/", keys: int = 1_000) -> Request:
    """GET one of the first `keys` documents."""
    return Request("GET", prefix + document_key(number % keys))


def put_document(number: int, *, prefix: str = "/", keys: int = 1_000_000, first: int = 0) -> Request:
    """PUT one of the first `keys` documents, from `first` on."""
    number += first
    body = document_body(number)
    return Request("PUT", prefix + document_key(number % keys), body, {"Content-Type": "application/json"})
