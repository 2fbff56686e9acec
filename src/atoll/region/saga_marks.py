"""Steps of sagas that are transactions: each leaves a mark, which it writes together with all that it changes.

So whoever goes on with the saga, in whatever region, learns from a majority whether the step has been done. A mark is
written once. It says that the step was done, or that it must not be done any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from atoll.documents.mutation import Mutation, Put, Write
from atoll.errors import RequestError, Unavailable, VersionMismatch
from atoll.region.registers import Registers
from atoll.region.saga_steps import Attempted, Steps
from atoll.region.transactions import Transactions
from atoll.sagas.instance import Instance, effect_key
from atoll.sagas.protocol import Done, Perform
from atoll.schema.saga import SagaSchema
from atoll.schema.system import STEPS


class Mark(msgspec.Struct, frozen=True):
    """The value of the document."""

    outcome: Literal["done", "void"]
    fields: dict[str, Any]


_TRIES: Final = 8
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Mark).decode


class Marks(NamedTuple):
    """Of one node."""

    registers: Registers
    transactions: Transactions

    async def commit(self, key: str, mutations: Sequence[Mutation], fields: Mapping[str, Any]) -> Mark:
        """Do all of it, unless it was done before: returns what has become of the step.

        Raises RequestError where it cannot be done, and then it has not happened. Raises other AtollErrors where that
        is not known, or it may be tried again: ask again then, under the same key.
        """
        mark = Mark("done", dict(fields))
        put = Put(STEPS, key, _encode(mark), if_absent=True)
        try:
            await self.transactions.commit(Write((*mutations, put), brief=True))
        except RequestError:
            found = await self.found(key)
            if found is None:
                raise
            return found
        return mark

    async def void(self, key: str) -> Mark:
        """Have the step not happen any more, unless it has happened. Returns what has become of it.

        Raises as a strong write does.
        """
        mark = Mark("void", {})
        try:
            await self.registers.change(Write((Put(STEPS, key, _encode(mark), if_absent=True),)), None)
        except VersionMismatch:
            return await self.found(key) or mark
        return mark

    async def found(self, key: str) -> Mark | None:
        """Raises RegionUnreachable."""
        reading = await self.registers.read(STEPS, key)
        return None if reading.value is None else _decode(reading.value)


class MarkedSteps(NamedTuple):
    """Does steps that are transactions, and undoes them."""

    steps: Steps
    marks: Marks

    async def attempt(self, instance: Instance, plan: SagaSchema, perform: Perform) -> Attempted:
        """As `Steps.attempt`; what is returned as done has been decided.

        Raises AtollErrors where what became of it is not known, or it could not be tried.
        """
        step = plan.steps[perform.at]
        if perform.backwards and not _is_recorded(instance, step.name):
            mark = await self.marks.void(effect_key(instance, step.name))
            if mark.outcome == "void":
                return Attempted(Done(*perform, instance.fields))
            instance = msgspec.structs.replace(instance, fields=mark.fields)
        name = step.options.compensate if perform.backwards else step.name
        key = effect_key(instance, name or "")
        for left in reversed(range(_TRIES)):
            attempted = await self.steps.attempt(instance, plan, perform)
            if not isinstance(attempted.event, Done):
                return attempted
            try:
                mark = await self.marks.commit(key, attempted.mutations, attempted.event.fields)
            except RequestError as error:
                if left and isinstance(error, VersionMismatch):
                    continue  # what it has read was changed by others: no failure of the step
                return self.steps.refused(instance, perform, error)
            if mark.outcome == "void":
                raise Unavailable(f"{instance.saga}/{instance.id} is undone by another region")
            return Attempted(Done(*perform, mark.fields))
        raise AssertionError("the last try returns")


def _is_recorded(instance: Instance, step: str) -> bool:
    return any(each.step == step and each.outcome != "undone" for each in instance.done)
