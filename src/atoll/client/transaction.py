"""Transactions over strong documents: read, check, write, all or nothing.

Reads are remembered with their versions. The commit is one request: what was read must still be so, and all is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import msgspec

from atoll.client.batch import BatchWrite, Delete, Patch, Put, Update, key_of, model_class
from atoll.client.results import Read
from atoll.errors import InvalidOperation, Unavailable, VersionMismatch
from atoll.schema import Collection

M = TypeVar("M", bound=Collection)
T = TypeVar("T")

ATTEMPTS: Final = 10


class CheckedRead(msgspec.Struct, frozen=True):
    """A document that a transaction has read."""

    model: type[Collection]
    key: str
    version: str | None
    """None where it was absent."""


class Transaction:
    """What one transaction has read, and is to write. It is committed where its block ends without an error.

    Writes are kept until then. So they raise nothing about documents as they are: the commit does.
    """

    def __init__(
        self,
        read: Callable[[type[Collection], str], Awaitable[Read[Any]]],
        commit: Callable[[Sequence[CheckedRead], Sequence[BatchWrite]], Awaitable[None]],
    ) -> None:
        self._read = read
        self._commit = commit
        self._checks: dict[tuple[type[Collection], str], CheckedRead] = {}
        self._seen: dict[tuple[type[Collection], str], Collection | None] = {}
        self._writes: list[BatchWrite] = []
        self._over = False

    async def get(self, model: type[M], key: str) -> M | None:
        """The document as its regions have decided, or as this transaction is to put it; None if it is absent.

        Raises InvalidOperation for one that this transaction updates: what comes of it is not known yet.
        """
        self._use()
        place = (model, key)
        for write in reversed(self._writes):
            if (model_class(write), key_of(write)) == place:
                if isinstance(write, Put | Delete):
                    return write.model if isinstance(write, Put) else None  # type: ignore[return-value]
                raise InvalidOperation(
                    f"{model.__name__} {key!r} is updated by this transaction; read it before"
                )
        if place not in self._seen:
            found = await self._read(model, key)
            self._seen[place] = found.value
            self._checks[place] = CheckedRead(model, key, found.version)
        return self._seen[place]  # type: ignore[return-value]

    def put(self, model: Collection, *, if_match: str | None = None, create: bool = False) -> None:
        """Write the whole document; `create` refuses to replace one."""
        if create:
            place = (type(model), model.key)
            if if_match is not None or self._checks.get(place, CheckedRead(*place, None)).version is not None:
                raise InvalidOperation(f"{type(model).__name__} {model.key!r} exists, and cannot be created")
            self._checks[place] = CheckedRead(*place, None)
        self._add(Put(model, if_match))

    def update(self, model: type[Collection], key: str, /, **changes: Any) -> None:
        """Change some fields, as `db.update` does."""
        self._add(Update(model, key, **changes))

    def patch(self, model: type[Collection], key: str, operators: Mapping[str, Any]) -> None:
        """Apply operators, as `db.patch` does."""
        self._add(Patch(model, key, operators))

    def delete(self, model: type[Collection], key: str) -> None:
        """Delete the document. The commit raises NotFound if it is absent."""
        self._add(Delete(model, key))

    async def commit(self) -> None:
        """Have all of it done, or nothing. A block does so by itself.

        Raises VersionMismatch if what was read has changed since, and what a batch raises.
        """
        self._use()
        self._over = True
        if self._writes or len(self._checks) > 1:
            await self._commit(tuple(self._checks.values()), self._writes)

    def _add(self, write: BatchWrite) -> None:
        self._use()
        self._writes.append(write)

    def _use(self) -> None:
        if self._over:
            raise InvalidOperation("this transaction is over; begin another one")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *failure: object) -> None:
        if kind is None and not self._over:
            await self.commit()
        self._over = True


async def repeated(
    begin: Callable[[], Transaction],
    work: Callable[[Transaction], Awaitable[T]],
    sleep: Callable[[int], Coroutine[Any, Any, None]],
) -> T:
    """Run `work` until its transaction commits on what it has read. Raises what the last attempt raises."""
    for attempt in range(1, ATTEMPTS + 1):
        transaction = begin()
        try:
            async with transaction:
                return await work(transaction)
        except (VersionMismatch, Unavailable) as error:
            if attempt == ATTEMPTS or not error.definite:
                raise
        await sleep(attempt)
    raise AssertionError("the last attempt returns or raises")
