"""How a client reaches regions: the port, and the messages that cross it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from math import inf
from typing import Final, NamedTuple, Protocol

import msgspec

CLOSED: Final = "this client is closed; connect again"


class Request(msgspec.Struct, frozen=True):
    """One HTTP request to one region."""

    region: str
    method: str
    path: str
    """Percent-encoded, starting with a slash."""
    query: str
    """Percent-encoded, without the question mark; often empty."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    timeout_s: float
    """For the whole exchange; of a stream, for the silence between two of its pieces."""
    patience_s: float = inf
    """With what is waited before it can begin, as for a connection that others use."""


class Response(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Asked for by lower-case names only."""
    body: bytes


class Stream(NamedTuple):
    """The head of an answer whose body comes in pieces."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    """Raises Indefinite when the connection breaks; ends when the region ends it."""


class SyncStream(NamedTuple):
    """As `Stream`, for callers without an event loop."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Transport(Protocol):
    """Delivers requests. It never repeats one by itself: a repetition could count twice elsewhere."""

    async def send(self, request: Request) -> Response:
        """Raises RegionUnreachable if the region got nothing, and Indefinite if it may have got the request.
        Raises Overloaded if the client had no free connection, TooLarge if the answer exceeds its bound, and
        ConfigError if no HTTP server answers."""

    def stream(self, request: Request) -> AbstractAsyncContextManager[Stream]:
        """Open a stream; leaving the context closes it. Raises as `send` does."""

    async def close(self) -> None:
        """Close all connections. May be called twice."""

    def forget(self) -> None:
        """Drop connections, unclosed, that no event loop of this process serves: its loop is over, or it has forked."""


class SyncTransport(Protocol):
    """As `Transport`; may be used by several threads at once."""

    def send(self, request: Request) -> Response:
        """Raises as `Transport.send` does."""

    def stream(self, request: Request) -> AbstractContextManager[SyncStream]:
        """Raises as `Transport.stream` does."""

    def close(self) -> None:
        """Close all connections. May be called twice."""
