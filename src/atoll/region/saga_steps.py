"""Calls the methods of a saga: what they change is gathered, and what goes wrong becomes an event."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from atoll.documents.mutation import Check, Delete, Mutation, Patch, Put, Write, patch_of, put_fields
from atoll.documents.references import refers
from atoll.documents.rules import Rules
from atoll.errors import InvalidOperation, NotFound
from atoll.region.reading import PLAIN_READ, Reading, ReadOptions
from atoll.replication.messages import WriteReply
from atoll.sagas.instance import Instance, effect_key
from atoll.sagas.protocol import Done, Failed, Perform
from atoll.schema.application import Application
from atoll.schema.collection import Collection
from atoll.schema.models import encoded, jsonable, model_of, operators_of
from atoll.schema.saga import Abort, SagaSchema

M = TypeVar("M", bound=Collection)


class Attempted(NamedTuple):
    """What came of calling a method."""

    event: Done | Failed
    mutations: tuple[Mutation, ...] = ()
    """What it wants to change, together with the record that it is done."""


class Reads:
    """What both kinds of steps can ask of the region's documents."""

    def __init__(
        self,
        application: Application,
        rules: Mapping[str, Rules],
        read: Callable[[str, str, ReadOptions], Awaitable[Reading]],
    ) -> None:
        self._application = application
        self._rules = rules
        self._read = read

    async def get(self, model: type[M], key: str) -> M | None:
        """The document as its collection's own consistency shows it, or None."""
        return (await self.found(model, key))[0]

    async def found(self, model: type[M], key: str) -> tuple[M | None, Check | None]:
        """The document, and what a transaction requires that depends on it; None where no majority decides it."""
        rules = self.of(model)
        reading = await self._read(rules.name, key, PLAIN_READ)
        shown = None if reading.value is None else model_of(model, key, reading.value)
        check = Check(rules.name, key, reading.version if shown else None, shown is None)
        return shown, check if rules.schema.policy.by_quorum else None

    def of(self, model: type[Collection]) -> Rules:
        """Raises UnknownCollection."""
        return self._rules[self._application.schema_of(model).name]

    def by_quorum(self, mutation: Mutation) -> bool:
        """Whether a majority of regions decides it."""
        return self._rules[mutation.collection].schema.policy.by_quorum

    def unique(self, mutation: Mutation) -> bool:
        """Whether the collection has a unique field."""
        return bool(self._rules[mutation.collection].schema.unique)

    def refers(self, mutation: Mutation) -> str:
        """Why it may be refused for references."""
        return refers(self._rules[mutation.collection], mutation)

    def put(self, model: Collection, if_match: str | None, *, create: bool) -> Put:
        rules = self.of(type(model))
        key = rules.schema.validate_key(model.key)
        if create and if_match is not None:
            raise InvalidOperation("put takes create=True or if_match, not both: they contradict each other")
        if not rules.simple:
            fields = rules.schema.document_of(model)
            return put_fields(rules, key, fields, if_match=if_match, if_absent=create)
        return Put(rules.name, key, rules.schema.form_of(model)[0], None, if_match, create)

    def patch(
        self, model: type[Collection], key: str, operators: Mapping[str, Any], if_match: str | None
    ) -> Patch:
        rules = self.of(model)
        rules.schema.validate_key(key)
        plain = msgspec.json.decode(encoded(jsonable(dict(operators), rules.name), rules.name))
        return patch_of(rules, key, plain, if_match=if_match)

    def delete(self, model: type[Collection], key: str, if_match: str | None) -> Delete:
        rules = self.of(model)
        return Delete(rules.name, rules.schema.validate_key(key), if_match)


class Changes:
    """The `tx` of a step: its changes happen together with the record that the step is done, or not at all."""

    def __init__(self, reads: Reads, *, transaction: bool = False) -> None:
        """`transaction`: they are of strong documents, and depend on those that were read."""
        self.mutations: list[Mutation] = []
        self._reads = reads
        self._transaction = transaction
        self._checked: set[tuple[str, str]] = set()

    async def get(self, model: type[M], key: str) -> M | None:
        """A document as the region shows it; not what this step has changed.

        A step that is a transaction fails if a strong document that it has read has changed by its end.
        """
        found, check = await self._reads.found(model, key)
        if self._transaction and check is not None and (check.collection, check.key) not in self._checked:
            self._checked.add((check.collection, check.key))
            self.mutations.append(check)
        return found

    def put(self, model: Collection, *, if_match: str | None = None, create: bool = False) -> None:
        """Write the whole document. The step fails if `if_match` or `create` do not hold."""
        self._add(self._reads.put(model, if_match, create=create))

    def update(
        self, model: type[Collection], key: str, /, *, if_match: str | None = None, **changes: Any
    ) -> None:
        """Change some fields: to a value, or by an operation such as `stock=Decrement(2)`."""
        self.patch(model, key, operators_of(self._reads.of(model).schema, changes), if_match=if_match)

    def patch(
        self, model: type[Collection], key: str, operators: Mapping[str, Any], *, if_match: str | None = None
    ) -> None:
        """Apply operators as the HTTP interface has them."""
        self._add(self._reads.patch(model, key, operators, if_match))

    def delete(self, model: type[Collection], key: str, *, if_match: str | None = None) -> None:
        """Delete the document. The step fails if there is none."""
        self._add(self._reads.delete(model, key, if_match))

    def _add(self, mutation: Mutation) -> None:
        name, decided = mutation.collection, self._reads.by_quorum(mutation)
        if decided and not self._transaction:
            raise InvalidOperation(
                f"{name} is strong: a majority of regions decides each write; change it in a step of its own, with"
                " transaction=True"
            )
        if self._transaction and not decided:
            raise InvalidOperation(
                f"{name} is not decided by a majority of regions, so it cannot be part of a transaction; change it in a"
                " step of its own, without transaction=True"
            )
        if not decided and self._reads.unique(mutation):
            raise InvalidOperation(
                f"{name} has a unique field, so it cannot be part of a step's own entry; write it in a step with"
                " effect=True, through its db"
            )
        if not decided and (why := self._reads.refers(mutation)):
            raise InvalidOperation(
                f"{name} {why}, so this cannot be part of a step's own entry; write it in a step with effect=True,"
                " through its db"
            )
        self.mutations.append(mutation)


class Outside:
    """The `db` of a step with effects: each write happens at once, wherever it belongs.

    The writes of a step are numbered, and named after the step's key. So a step that is repeated and writes the same
    in the same order writes it once, for as long as regions remember idempotency keys.
    """

    def __init__(self, reads: Reads, write: Callable[[Write], Awaitable[WriteReply]], key: str) -> None:
        self._reads = reads
        self._write = write
        self._key = key
        self._written = 0

    async def get(self, model: type[M], key: str) -> M | None:
        """The document as its collection's own consistency shows it, or None."""
        return await self._reads.get(model, key)

    async def put(self, model: M, *, if_match: str | None = None, create: bool = False) -> M:
        """Write the whole document; returns it as it is shown."""
        found = await self._do(type(model), model.key, self._reads.put(model, if_match, create=create))
        return cast(M, found)

    async def update(self, model: type[M], key: str, /, *, if_match: str | None = None, **changes: Any) -> M:
        """Change some fields: to a value, or by an operation such as `balance=Decrement(2)`."""
        return await self.patch(
            model, key, operators_of(self._reads.of(model).schema, changes), if_match=if_match
        )

    async def patch(
        self, model: type[M], key: str, operators: Mapping[str, Any], *, if_match: str | None = None
    ) -> M:
        """Apply operators as the HTTP interface has them."""
        return cast(M, await self._do(model, key, self._reads.patch(model, key, operators, if_match)))

    async def delete(self, model: type[Collection], key: str, *, if_match: str | None = None) -> bool:
        """Delete the document; False when there is none."""
        try:
            await self._do(model, key, self._reads.delete(model, key, if_match))
        except NotFound:
            return False
        return True

    async def _do(self, model: type[Collection], key: str, mutation: Mutation) -> Collection | None:
        self._written += 1
        reply = await self._write(Write((mutation,), f"{self._key}.{self._written}"))
        value = reply.receipt.written[0].value
        return None if value is None else model_of(model, key, value)


class Steps:
    """Of one node."""

    def __init__(self, reads: Reads, write: Callable[[Write], Awaitable[WriteReply]], random: Random) -> None:
        self._reads = reads
        self._write = write
        self._random = random

    async def attempt(self, instance: Instance, plan: SagaSchema, perform: Perform) -> Attempted:
        """Call the method. Whatever it raises has failed."""
        found = plan.steps[perform.at]
        options = found.options
        name = found.name if not perform.backwards else options.compensate
        takes = found.undo_takes if perform.backwards else found.takes
        assert name is not None, "what cannot be undone is not undone"
        changes = Changes(self._reads, transaction=options.transaction)
        given: dict[str, Any] = {}
        if "tx" in takes:
            given["tx"] = changes
        if options.effect:
            key = effect_key(instance, name)
            given |= {"key": key} if "key" in takes else {}
            given |= {"db": Outside(self._reads, self._write, key)} if "db" in takes else {}
        if "signal" in takes:
            given["signal"] = instance.signals.get(options.signal or "")
        timeout = asyncio.timeout(options.timeout_s)
        try:
            saga = plan.fields.to_model(instance.id, msgspec.json.encode(instance.fields))
            async with timeout:
                came = getattr(saga, name)(**given)
                if inspect.isawaitable(came):
                    await came
            fields = plan.fields.document_of(saga)
        except Abort as error:
            return self._failed(instance, perform, str(error) or f"{name} was aborted", refused=True)
        except Exception as error:
            if timeout.expired():
                return self._failed(instance, perform, f"{name} took longer than {options.timeout_s:g} s")
            return self._failed(instance, perform, f"{type(error).__name__}: {error}")
        return Attempted(Done(*perform, fields), tuple(changes.mutations))

    def refused(self, instance: Instance, perform: Perform, error: Exception) -> Attempted:
        """Its changes cannot be made."""
        return self._failed(instance, perform, f"{type(error).__name__}: {error}")

    def _failed(
        self, instance: Instance, perform: Perform, error: str, *, refused: bool = False
    ) -> Attempted:
        jitter = self._random.random()
        return Attempted(Failed(*perform, instance.attempts, error, jitter, refused=refused))
