"""Everything that can be asked of a database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from atoll.client.batch import BatchWrite
from atoll.client.calls import PAGE, Asked, Call, Calls, Condition, Page
from atoll.client.exchange import Exchanges
from atoll.client.feed import Feed
from atoll.client.results import Change, LeftOut, Read
from atoll.client.sagas import Sagas
from atoll.client.transaction import CheckedRead, Transaction, repeated
from atoll.client.transport import Response, Stream, Transport
from atoll.errors import ConfigError, Indefinite, InvalidDocument, RegionUnreachable, TooLarge
from atoll.schema import Collection
from atoll.schema.models import operators_of, schema_of
from atoll.schema.policy import Consistency

M = TypeVar("M", bound=Collection)
T = TypeVar("T")


def refuse_copy(client: object, *_: object) -> NoReturn:
    """As `__reduce__`: of a client, a session or an embedded region."""
    raise ConfigError(
        "a client has connections of its own, and cannot be pickled or copied; connect again where it is to be used."
        " A session continues there from its `token`"
    )


class Verbs:
    """What can be asked of a database, within a session or without one.

    Every call raises the error that the region answered with, or RegionUnreachable if no region answered.
    Writes raise Indefinite if it is unknown whether they happened.
    """

    def __init__(self, calls: Calls, exchanges: Exchanges, transport: Transport) -> None:
        self._calls = calls
        self._exchanges = exchanges
        self._transport = transport

    __reduce__ = refuse_copy

    async def _run(self, call: Call[T], key: str | None = None) -> T:
        """Take one call to its end; `key` is an idempotency key given by the caller."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def _use(self) -> None:
        """Before each request. Raises ConfigError in a client that is closed, or belongs to another event loop."""
        raise NotImplementedError

    @property
    def sagas(self) -> Sagas:
        """What can be asked about sagas."""
        return Sagas(self)

    async def put(
        self,
        model: M,
        *,
        if_match: str | None = None,
        create: bool = False,
        idempotency_key: str | None = None,
    ) -> M:
        """Write the whole document; returns it as the region shows it, with what others merged into it.

        `if_match` is the version that must be there, `"*"` any; `create` refuses to replace a document.
        Raises VersionMismatch, BoundExceeded and what the class says.
        """
        return await self._run(self._calls.put(model, if_match, create=create), idempotency_key)

    async def get(
        self,
        model: type[M],
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_s: float | None = None,
        max_wait_s: float | None = None,
    ) -> M | None:
        """The document, or None. Raises TokenNotReached and TooStale where its consistency cannot be had."""
        return await self._run(self._calls.get(model, key, Asked(consistency, max_staleness_s, max_wait_s)))

    async def read(
        self,
        model: type[M],
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_s: float | None = None,
        max_wait_s: float | None = None,
    ) -> Read[M]:
        """As `get`, with version, region, and whether the answer is weaker than promised."""
        return await self._run(self._calls.read(model, key, Asked(consistency, max_staleness_s, max_wait_s)))

    async def update(
        self,
        model: type[M],
        key: str,
        /,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
        **changes: Any,
    ) -> M:
        """Change some fields: to a value, or by an operation, such as `stock=Decrement(2)`.

        A document that is not there starts from its defaults. Fields called `if_match` or
        `idempotency_key` are reached with `patch`.
        """
        operators = operators_of(schema_of(model, self._calls.limits), changes)
        return await self.patch(model, key, operators, if_match=if_match, idempotency_key=idempotency_key)

    async def patch(
        self,
        model: type[M],
        key: str,
        operators: Mapping[str, Any],
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> M:
        """Apply operators as the HTTP interface has them: `{"$set": {"labels.colour": "red"}}`."""
        return await self._run(self._calls.patch(model, key, if_match, operators), idempotency_key)

    async def delete(
        self,
        model: type[Collection],
        key: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        """Delete the document; False when there is none."""
        return await self._run(self._calls.delete(model, key, if_match), idempotency_key)

    def list(
        self,
        model: type[M],
        *,
        prefix: str = "",
        where: Sequence[Condition] = (),
        limit: int = PAGE,
        consistency: Consistency | None = None,
        on_invalid: Callable[[InvalidDocument], None] | None = None,
    ) -> AsyncIterator[M]:
        """Documents in order of their keys, fetched `limit` at a time.

        `where` holds `(field, op, value)`, all of which must be met; op is one of eq, ne, lt, le, gt, ge,
        contains. A document that does not fit its declaration is left out. `on_invalid` receives an error that names
        its key. Without `on_invalid`, InvalidDocument is raised after the last document, with the keys left out.
        """
        return self._items(
            lambda cursor: self._calls.page(model, prefix, where, limit, cursor, consistency=consistency),
            on_invalid,
        )

    async def batch(
        self, writes: Sequence[BatchWrite], *, idempotency_key: str | None = None
    ) -> tuple[Read[Any], ...]:
        """Do all of the writes or none; returns what each document came to, in the same order.

        If some of what was written does not fit its declaration, Indefinite names the keys. Its `details["written"]`
        holds the results, with None for these.
        """
        return await self._run(self._calls.batch(writes), idempotency_key)

    def transaction(self, *, idempotency_key: str | None = None) -> Transaction:
        """Reads and writes of strong documents, which are committed at the end of its block, all of them or none.

        Use it as `async with db.transaction() as t:`. Its end raises VersionMismatch if what was read has changed
        since: `transact` then begins anew. It raises Unavailable where nothing was done, and Indefinite where that
        is unknown: repeat it with the same key.
        """

        async def read(model: type[Collection], key: str) -> Read[Any]:
            return await self.read(model, key, consistency="strong")

        async def commit(checks: Sequence[CheckedRead], writes: Sequence[BatchWrite]) -> None:
            await self._run(self._calls.transact(checks, writes), idempotency_key if writes else None)

        return Transaction(read, commit)

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` with a transaction, and commit it; anew, up to 10 times, while others change what it has read.

        Returns what `work` returns. It may run several times, so let it do nothing else. Raises what it raises.
        """

        async def pause(attempt: int) -> None:
            await self._sleep(self._exchanges.random.random() * min(0.02 * 2**attempt, 1.0))

        return await repeated(self.transaction, work, pause)

    async def snapshot(self, *wanted: tuple[type[Collection], str]) -> tuple[Read[Any], ...]:
        """Strong documents as they all were at one moment: `await db.snapshot((Account, "a"), (Account, "b"))`."""
        return await self._run(self._calls.snapshot(wanted))

    async def put_many(
        self,
        model: type[Collection],
        documents: Sequence[tuple[str, bytes]],
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Write many whole documents as one entry, all or none; the bulk road.

        `documents` are (key, JSON text without the key), at most 1,000 of them, and of 16 MiB together.
        What they came to is not answered. Raises as `batch` does.
        """
        await self._run(self._calls.put_many(model, documents), idempotency_key)

    async def texts(
        self,
        model: type[Collection],
        *,
        prefix: str = "",
        where: Sequence[Condition] = (),
        limit: int = PAGE,
        cursor: str | None = None,
        consistency: Consistency | None = None,
    ) -> Page[tuple[str, bytes]]:
        """One page of `list` as it is stored: (key, JSON text), and the cursor of the next page, None at the end."""
        return await self._run(
            self._calls.texts(model, prefix, where, limit, cursor, consistency=consistency)
        )

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
    ) -> AsyncIterator[dict[str, Any]]:
        """Records of the audit, fetched `limit` at a time. Moments have a time zone, or are unix milliseconds."""
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
        return self._items(lambda cursor: self._calls.conflicts(filters, cursor))

    async def resolve(self, conflict_id: str, value: Collection | Mapping[str, Any]) -> dict[str, Any]:
        """Settle a manual conflict with the document as it should be; returns it as the region shows it."""
        return await self._run(self._calls.resolve(conflict_id, value))

    async def ids(self, kind: str, count: int = 1) -> Sequence[str]:
        """New identifiers: uuid4, uuid7, ulid, snowflake or prefixed."""
        return await self._run(self._calls.ids(kind, count))

    async def changes(
        self, cursor: str | None = None, *, only: Sequence[type[Collection]] = (), progress: bool = False
    ) -> AsyncIterator[Change]:
        """Every change from `cursor` on, as it comes, over broken connections and lost regions.

        None starts with the oldest change that is kept, `"now"` with the next one. After a restart, continue
        with the `cursor` of the last change handled. Raises InvalidCursor, CursorExpired when no region
        has kept all changes since, and RegionUnreachable when none serves the feed for `feed_timeout_s`.
        With `progress`, a `Change` without documents comes at most each 10 s if only others wrote: save its cursor.
        """
        feed = Feed(self._exchanges, cursor, only, progress=progress)
        while True:
            self._use()
            try:
                async with self._transport.stream(feed.request()) as stream:
                    if stream.status != 200:
                        feed.refused(await self._body(stream))
                    else:
                        feed.opened(stream.headers)
                        async for chunk in stream.chunks:
                            for change in feed.received(chunk):
                                yield change
                                self._use()
            except (RegionUnreachable, Indefinite) as error:
                feed.failed(error)
            await self._sleep(feed.pause_s())

    async def _items(
        self,
        page_at: Callable[[str | None], Call[Page[T]]],
        on_invalid: Callable[[InvalidDocument], None] | None = None,
    ) -> AsyncIterator[T]:
        cursor: str | None = None
        left_out = LeftOut()
        while True:
            page = await self._run(page_at(cursor))
            for item in page.items:
                yield item
            for error in page.invalid:
                (on_invalid or left_out.add)(error)
            cursor = page.cursor
            if cursor is None:
                left_out.tell("the listing holds all others")
                return

    async def _body(self, stream: Stream) -> Response:
        """The problem that came instead of a stream."""
        body = b""
        async for chunk in stream.chunks:
            body += chunk
            if len(body) > self._exchanges.options.response_bytes:
                raise TooLarge("the region's error answer to the change feed is too large")
        return Response(stream.status, stream.headers, body)
