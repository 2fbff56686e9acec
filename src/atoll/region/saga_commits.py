"""Each change of a saga is one entry: its document, and the documents that the step has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from atoll.commit.batch import Batch
from atoll.commit.identity import Address
from atoll.commit.work import Fence, Wants
from atoll.documents.mutation import Mutation, Put, Write, weight_of
from atoll.errors import AtollError
from atoll.region.group_commit import Awaited
from atoll.region.local_writes import LocalWrites
from atoll.sagas.instance import Instance, encoded
from atoll.schema.system import SAGAS
from atoll.store.port import Row, View


class Guard(Protocol):
    """What must hold in the transaction that changes a saga."""

    def want(self, wants: Wants) -> None:
        """Name what `hold` needs."""

    def hold(self, batch: Batch, view: View) -> None:
        """Raises an AtollError where the saga may not be changed here."""


class OfNode(NamedTuple):
    """Only the holder of a node lease may change it, and what the region's right says."""

    fence: Fence
    right: Guard

    def want(self, wants: Wants) -> None:
        self.fence.want(wants)
        self.right.want(wants)

    def hold(self, batch: Batch, view: View) -> None:
        """Raises FenceLost, and what the right raises."""
        self.right.hold(batch, view)
        self.fence.hold(batch, view)


class _Stale(Exception):
    """The saga's document is not the one that was read. Never leaves the work."""


class SagaWrite(Awaited[bytes | None]):
    """A work: the saga's document as it shows now; None where it was not `before`, and nothing is changed."""

    __slots__ = ("_after", "_before", "_guard", "_mutations", "_writes")

    def __init__(
        self,
        before: bytes | None,
        after: Instance,
        mutations: Sequence[Mutation],
        guard: Guard,
        writes: LocalWrites,
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._before = before
        self._after = after
        self._mutations = tuple(mutations)
        self._guard = guard
        self._writes = writes

    def want(self, wants: Wants) -> None:
        wants.gates = self._writes.gates
        wants.document(SAGAS, self._after.key)
        for mutation in self._mutations:
            wants.document(mutation.collection, mutation.key)
            wants.weight_bytes += weight_of(mutation)
        self._guard.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: what is refused leaves no trace in the batch, and the others go on."""
        try:
            if batch.closed is not None:
                raise batch.closed
            self._guard.hold(batch, view)
            put = Put(SAGAS, self._after.key, encoded(self._after))
            receipt = batch.write(Write((*self._mutations, put)), self._admit)
        except _Stale:
            self.result = None
        except AtollError as error:
            self.result = error
        except Exception as error:
            self.result = AtollError(f"the step failed unexpectedly: {error!r}")
            self.result.__cause__ = error
        else:
            self.result = receipt.written[-1].value

    def _admit(self, write: Write, row: Callable[[Address], Row | None]) -> None:
        shown = row((SAGAS, self._after.key))
        if (None if shown is None else shown.value) != self._before:
            raise _Stale
        if self._writes.admit is not None and self._mutations:
            self._writes.admit(Write(self._mutations), row)
