"""The verbs of `atoll.client`, on a region in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec

from atoll.client.database import Database
from atoll.client.exchange import check_key, unreturned
from atoll.client.options import DEFAULTS, fitted
from atoll.documents.mutation import Delete, Mutation, Put, Write, patch_of, put_fields
from atoll.documents.rules import Rules
from atoll.embedded.asgi_transport import AsgiTransport
from atoll.errors import ConfigError, InvalidOperation, NotFound, RequestError
from atoll.http.documents import READ
from atoll.node.node import Node
from atoll.region.reading import ReadOptions
from atoll.region.region import Region
from atoll.schema import Collection, CollectionSchema
from atoll.schema.models import encoded, jsonable, model_of, schema_of
from atoll.schema.policy import Consistency

if TYPE_CHECKING:
    from atoll.node.listening import Listener

M = TypeVar("M", bound=Collection)


class EmbeddedDatabase(Database):
    """Everything that a client can ask; the commonest calls go straight to the region.

    Sessions, listings, feeds and the audit take the same way as over HTTP, only without a socket.
    """

    _nowhere = "no asyncio event loop of the region's process runs here; use it there, or connect to its url from here"

    def __init__(self, node: Node, listener: Listener | None) -> None:
        limits = node.config.limits
        options = fitted(DEFAULTS, limits, len(node.config.regions))
        super().__init__(AsgiTransport(node.app), [node.settings], options=options, limits=limits)
        self._node = node
        self._listener = listener
        self._found: dict[type[Collection], tuple[Rules, CollectionSchema]] = {}

    @property
    def region(self) -> Region:
        """The region itself: status, vector, statistics."""
        return self._node.region

    async def __aenter__(self) -> Self:
        if self._loop is None and not self._exchanges.closed:
            self._loop = asyncio.get_running_loop()
        await super().__aenter__()
        try:
            await self._node.__aenter__()
            if self._listener is not None:
                await self._listener.start()
        except BaseException:
            self._exchanges.closed, self._loop = True, None
            raise
        return self

    async def close(self) -> None:
        if self._exchanges.closed:
            return
        if self._loop is None:  # never entered
            self._loop = asyncio.get_running_loop()
        await super().close()
        self._node.app.closing.set()
        if self._listener is not None:
            await self._listener.stop()
        await self._node.__aexit__(None, None, None)

    async def put(
        self,
        model: M,
        *,
        if_match: str | None = None,
        create: bool = False,
        idempotency_key: str | None = None,
    ) -> M:
        rules, schema = self._declared(type(model))
        key = schema.validate_key(model.key)
        if create and if_match is not None:
            raise InvalidOperation("put takes create=True or if_match, not both: they contradict each other")
        if not rules.simple:
            fields = schema.document_of(model)
            put = put_fields(rules, key, fields, if_match=if_match, if_absent=create)
            return await self._written(type(model), key, put, idempotency_key)
        text, stored = schema.form_of(model)
        put = Put(rules.name, key, text, None, if_match, create)
        return await self._written(type(model), key, put, idempotency_key, stored)

    async def patch(
        self,
        model: type[M],
        key: str,
        operators: Mapping[str, Any],
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> M:
        rules, _ = self._declared(model)
        rules.schema.validate_key(key)
        plain = msgspec.json.decode(encoded(jsonable(dict(operators), rules.name), rules.name))
        return await self._written(
            model, key, patch_of(rules, key, plain, if_match=if_match), idempotency_key
        )

    async def delete(
        self,
        model: type[Collection],
        key: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> bool:
        rules, _ = self._declared(model)
        rules.schema.validate_key(key)
        try:
            check_key(idempotency_key)
            await self.region.write(Write((Delete(rules.name, key, if_match),), idempotency_key))
        except NotFound:
            return False
        return True

    async def get(
        self,
        model: type[M],
        key: str,
        *,
        consistency: Consistency | None = None,
        max_staleness_s: float | None = None,
        max_wait_s: float | None = None,
    ) -> M | None:
        rules, _ = self._declared(model)
        rules.schema.validate_key(key)
        if consistency is not None or max_staleness_s is not None or max_wait_s is not None:
            for parameter, given in zip(READ, (consistency, max_staleness_s, max_wait_s), strict=True):
                if given is not None:
                    parameter.kind.read(parameter.name, str(given))
        options = ReadOptions(consistency, None, max_staleness_s, max_wait_s)
        reading = await self.region.read(rules.name, key, options)
        return None if reading.value is None else model_of(model, key, reading.value)

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """The region's tasks, and its store, stay where they are."""
        if self._exchanges.closed:
            raise ConfigError("this region is closed; open it again")
        if self._loop is None:
            raise ConfigError("this region is not open yet; use it within `async with`")
        raise ConfigError(
            "this region runs in another event loop or process; use it there, or connect to its url from here"
        )

    def _declared(self, model: type[Collection]) -> tuple[Rules, CollectionSchema]:
        """What the region knows the collection by, and what the caller does.

        Raises UnknownCollection, and ConfigError in another event loop than the region's.
        """
        self._use()
        found = self._found.get(model)
        if found is None:
            rules = self.region.rules[self.region.application.schema_of(model).name]
            found = self._found[model] = rules, schema_of(model, self._node.config.limits)
        return found

    async def _written(
        self,
        model: type[M],
        key: str,
        mutation: Mutation,
        idempotency_key: str | None,
        stored: Collection | None = None,
    ) -> M:
        """`stored`: the model of what a put gives, which need not be read anew if just that is shown now."""
        check_key(idempotency_key)
        reply = await self.region.write(Write((mutation,), idempotency_key))
        value = reply.receipt.written[0].value
        if stored is not None and isinstance(mutation, Put) and value == mutation.plain:
            return cast(M, stored)
        try:
            if value is None:
                raise NotFound(f"a concurrent deletion of {key!r} is shown")
            return model_of(model, key, value)
        except RequestError as error:
            raise unreturned(self.region.name, error, idempotency_key) from error
