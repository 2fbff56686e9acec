"""As `verbs`, for callers without an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from atoll.client.batch import BatchWrite
from atoll.client.calls import PAGE, Call, Calls, Condition, Page
from atoll.client.exchange import Exchanges
from atoll.client.feed import Feed
from atoll.client.results import Change, Read
from atoll.client.transport import Response, SyncStream, SyncTransport
from atoll.errors import Indefinite, RegionUnreachable, TooLarge
from atoll.schema import Collection
from atoll.schema.policy import Consistency

M = TypeVar("M", bound=Collection)
T = TypeVar("T")


class SyncVerbs:
    """What can be asked of a database, within a session or without one.

    Every call raises the error that the region answered with, or RegionUnreachable if no region answered.
    Writes raise Indefinite if it is unknown whether they happened.
    """

    def __init__(self, calls: Calls, exchanges: Exchanges, transport: SyncTransport) -> None:
        self._calls = calls
        self._exchanges = exchanges
        self._transport = transport

    def _run(self, call: Call[T], key: str | None = None) -> T:
        """Take one call to its end; `key` is an idempotency key given by the caller."""
        raise NotImplementedError

    def put(
        self,
        model: M,
        *,
        if_match: str | None = None,
        create: bool = False,
        idempotency_key: str | None = None,
    ) -> M:
        """As `Database.put`."""
        return self._run(self._calls.put(model, if_match, create=create), idempotency_key)

    def get(
        self,
        model: type[M],
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_s: float | None = None,
        max_wait_s: float | None = None,
    ) -> M | None:
        """As `Database.get`."""
        return self._run(self._calls.get(model, key, consistency, max_staleness_s, max_wait_s))

    def read(
        self,
        model: type[M],
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_s: float | None = None,
        max_wait_s: float | None = None,
    ) -> Read[M]:
        """As `Database.read`."""
        return self._run(self._calls.read(model, key, consistency, max_staleness_s, max_wait_s))

    def update(
        self,
        model: type[M],
        key: str,
        /,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
        **changes: Any,
    ) -> M:
        """As `Database.update`."""
        return self._run(self._calls.update(model, key, if_match, changes), idempotency_key)

    def patch(
        self,
        model: type[M],
        key: str,
        operators: Mapping[str, Any],
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> M:
        """As `Database.patch`."""
        return self._run(self._calls.patch(model, key, if_match, operators), idempotency_key)

    def delete(
        self,
        model: type[Collection],
        key: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """As `Database.delete`."""
        return self._run(self._calls.delete(model, key, if_match), idempotency_key)

    def list(
        self,
        model: type[M],
        *,
        prefix: str = "",
        where: Sequence[Condition] = (),
        limit: int = PAGE,
        consistency: Consistency | None = None,
    ) -> Iterator[M]:
        """As `Database.list`."""
        cursor: str | None = None
        while True:
            page = self._run(self._calls.page(model, prefix, where, limit, cursor, consistency=consistency))
            yield from page.items
            cursor = page.cursor
            if cursor is None:
                return

    def batch(
        self, writes: Sequence[BatchWrite], *, idempotency_key: str | None = None
    ) -> tuple[Read[Any], ...]:
        """As `Database.batch`."""
        return self._run(self._calls.batch(writes), idempotency_key)

    def put_many(
        self,
        model: type[Collection],
        documents: Sequence[tuple[str, bytes]],
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """As `Database.put_many`."""
        self._run(self._calls.put_many(model, documents), idempotency_key)

    def texts(
        self,
        model: type[Collection],
        *,
        prefix: str = "",
        where: Sequence[Condition] = (),
        limit: int = PAGE,
        cursor: str | None = None,
        consistency: Consistency | None = None,
    ) -> Page[tuple[str, bytes]]:
        """As `Database.texts`."""
        return self._run(self._calls.texts(model, prefix, where, limit, cursor, consistency=consistency))

    def conflicts(
        self,
        *,
        collection: str | None = None,
        key: str | None = None,
        kind: str | None = None,
        status: str | None = None,
        origin: str | None = None,
        since: datetime | str | int | None = None,
        until: datetime | str | int | None = None,
        limit: int = PAGE,
    ) -> Iterator[dict[str, Any]]:
        """As `Database.conflicts`."""
        filters = {
            "collection": collection,
            "key": key,
            "kind": kind,
            "status": status,
            "origin": origin,
            "since": since,
            "until": until,
            "limit": limit,
        }
        cursor: str | None = None
        while True:
            page = self._run(self._calls.conflicts(filters, cursor))
            yield from page.items
            cursor = page.cursor
            if cursor is None:
                return

    def resolve(self, conflict_id: str, value: Collection | Mapping[str, Any]) -> dict[str, Any]:
        """As `Database.resolve`."""
        return self._run(self._calls.resolve(conflict_id, value))

    def ids(self, kind: str, count: int = 1) -> Sequence[str]:
        """As `Database.ids`."""
        return self._run(self._calls.ids(kind, count))

    def changes(
        self, cursor: str | None = None, *, only: Sequence[type[Collection]] = ()
    ) -> Iterator[Change]:
        """As `Database.changes`."""
        feed = Feed(self._exchanges, cursor, only)
        while True:
            try:
                with self._transport.stream(feed.request()) as stream:
                    if stream.status != 200:
                        feed.refused(self._body(stream))
                    else:
                        feed.opened(stream.headers)
                        for chunk in stream.chunks:
                            yield from feed.received(chunk)
            except (RegionUnreachable, Indefinite) as error:
                feed.failed(error)
            time.sleep(feed.pause_s())

    def _body(self, stream: SyncStream) -> Response:
        """The problem that came instead of a stream."""
        body = b""
        for chunk in stream.chunks:
            body += chunk
            if len(body) > self._exchanges.options.response_bytes:
                raise TooLarge("the region's error answer to the change feed is too large")
        return Response(stream.status, stream.headers, body)
