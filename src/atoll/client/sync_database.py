"""The client for callers without an event loop: `database`, with calls that block."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from random import Random
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar
from weakref import WeakSet

from atoll.client.calls import Call
from atoll.client.database import Database, Session
from atoll.client.options import DEFAULTS, ClientOptions
from atoll.client.sagas import Sagas
from atoll.client.transaction import Transaction
from atoll.client.transport import CLOSED, Request, Response, Stream, SyncTransport
from atoll.client.verbs import Verbs, refuse_copy
from atoll.config.config import RegionConfig
from atoll.errors import ConfigError
from atoll.schema import Collection, Limits

P = ParamSpec("P")
M = TypeVar("M", bound=Collection)
T = TypeVar("T")
V = TypeVar("V")


class _Blocking:
    """A `Transport` over a synchronous one: it blocks the thread where others suspend."""

    def __init__(self, inner: SyncTransport) -> None:
        self._inner = inner

    async def send(self, request: Request) -> Response:
        return self._inner.send(request)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in opened.chunks:
                yield chunk

        with self._inner.stream(request) as opened:
            yield Stream(opened.status, opened.headers, chunks())

    async def close(self) -> None:
        self._inner.close()

    def forget(self) -> None:
        """`SyncTransport` finds out by itself that its process has forked."""


class _BlockingDatabase(Database):
    """A `Database` whose coroutines never suspend."""

    def _use(self) -> None:
        if self._exchanges.closed:
            raise ConfigError(CLOSED)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._entered = False

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs here

    async def _ask_all(self, regions: Sequence[str]) -> dict[str, float | None]:
        return {region: await self._drive_steps(self._exchanges.ask_health(region)) for region in regions}

    def _ask_soon(self, region: str) -> None:
        _finished(self._ask_all((region,)))


class _BlockingSession(Session):
    """Threads that share it call one after the other."""

    def __init__(self, database: Database, token: str | None) -> None:
        super().__init__(database, token)
        self.renew()
        _SESSIONS.add(self)

    def renew(self) -> None:
        """The thread that held the lock when the process forked is not in this one."""
        self._held = threading.RLock()  # a signal's handler may call amid a call of its thread

    async def _run(self, call: Call[T], key: str | None = None) -> T:
        # `with` of a lock itself: no exception of a signal's handler comes between taking it and giving it back.
        with self._held:
            return await self._answer(call, key)


_SESSIONS: WeakSet[_BlockingSession] = WeakSet()


def _renew_sessions() -> None:
    for session in _SESSIONS:
        session.renew()


os.register_at_fork(after_in_child=_renew_sessions)


def _finished(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a blocking call suspended")


class _Twin(Generic[V]):
    """Calls what another object does in coroutines."""

    _verbs: V

    __reduce__ = refuse_copy


def _call(
    verb: Callable[Concatenate[V, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Twin[V], P], T]:
    @wraps(verb)
    def call(self: _Twin[V], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _finished(verb(self._verbs, *args, **kwargs))

    return call


def _iteration(
    verb: Callable[Concatenate[V, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Twin[V], P], Iterator[T]]:
    @wraps(verb)
    def iterate(self: _Twin[V], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        found = verb(self._verbs, *args, **kwargs)
        assert isinstance(found, AsyncGenerator)
        try:
            while True:
                # An event loop that runs here would take generators for its own, and close them at its end.
                hooks = sys.get_asyncgen_hooks()
                sys.set_asyncgen_hooks(None, None)
                try:
                    item = _finished(found.__anext__())
                except StopAsyncIteration:
                    return
                finally:
                    sys.set_asyncgen_hooks(*hooks)
                yield item
        finally:
            _finished(found.aclose())

    return iterate


class SyncTransaction:
    """As `Transaction`, and each call blocks until it has its answer."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.put, self.update = transaction.put, transaction.update
        self.patch, self.delete = transaction.patch, transaction.delete

    def get(self, model: type[M], key: str) -> M | None:
        """As `Transaction.get`."""
        return _finished(self._transaction.get(model, key))

    def commit(self) -> None:
        """As `Transaction.commit`."""
        _finished(self._transaction.commit())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        _finished(self._transaction.__aexit__(*failure))


class SyncSagas(_Twin[Sagas]):
    """Each call is that of `Sagas`, and blocks until it has its answer."""

    def __init__(self, sagas: Sagas) -> None:
        self._verbs = sagas

    start = _call(Sagas.start)
    get = _call(Sagas.get)
    list = _iteration(Sagas.list)
    signal = _call(Sagas.signal)
    retry = _call(Sagas.retry)
    skip = _call(Sagas.skip)
    abort = _call(Sagas.abort)


class SyncVerbs(_Twin[Verbs]):
    """Each call is that of `Verbs`, and blocks until it has its answer."""

    @property
    def sagas(self) -> SyncSagas:
        """What can be asked about sagas."""
        return SyncSagas(self._verbs.sagas)

    put = _call(Verbs.put)
    get = _call(Verbs.get)
    read = _call(Verbs.read)
    update = _call(Verbs.update)
    patch = _call(Verbs.patch)
    delete = _call(Verbs.delete)
    list = _iteration(Verbs.list)
    batch = _call(Verbs.batch)
    snapshot = _call(Verbs.snapshot)
    put_many = _call(Verbs.put_many)
    texts = _call(Verbs.texts)
    conflicts = _iteration(Verbs.conflicts)
    resolve = _call(Verbs.resolve)
    ids = _call(Verbs.ids)
    changes = _iteration(Verbs.changes)

    def transaction(self, *, idempotency_key: str | None = None) -> SyncTransaction:
        """As `Verbs.transaction`: `with db.transaction() as t:`."""
        return SyncTransaction(self._verbs.transaction(idempotency_key=idempotency_key))

    def transact(self, work: Callable[[SyncTransaction], T]) -> T:
        """As `Verbs.transact`."""

        async def blocking(transaction: Transaction) -> T:
            return work(SyncTransaction(transaction))

        return _finished(self._verbs.transact(blocking))


class SyncSession(SyncVerbs):
    """As `Session`; threads that share it call one after the other."""

    def __init__(self, session: Session) -> None:
        self._verbs = self._session = session

    @property
    def token(self) -> str | None:
        """As `Session.token`."""
        return self._session.token

    @property
    def region(self) -> str | None:
        """As `Session.region`."""
        return self._session.region

    @property
    def degraded(self) -> str | None:
        """As `Session.degraded`."""
        return self._session.degraded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing to give back: a session is its token."""


class SyncDatabase(SyncVerbs):
    """As `Database`, and threads may share it. Use it as a context manager."""

    def __init__(
        self,
        transport: SyncTransport,
        endpoints: Sequence[RegionConfig],
        *,
        near: str | None = None,
        options: ClientOptions = DEFAULTS,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        new_key: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """As `Database`."""
        self._verbs = self._database = _BlockingDatabase(
            _Blocking(transport),
            endpoints,
            near=near,
            options=options,
            limits=limits,
            clock=clock,
            random=random,
            new_key=new_key,
        )

    @property
    def regions(self) -> tuple[str, ...]:
        """As `Database.regions`."""
        return self._database.regions

    def session(self, token: str | None = None) -> SyncSession:
        """A session that has seen nothing, or what `token` says."""
        return SyncSession(_BlockingSession(self._database, token))

    def close(self) -> None:
        """Close all connections."""
        _finished(self._database.close())

    def __enter__(self) -> Self:
        _finished(self._database.__aenter__())
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
