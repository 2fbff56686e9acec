"""Local writes as works of the group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from atoll.commit.batch import Admit, Batch
from atoll.commit.work import Wants
from atoll.documents.mutation import Receipt, Write
from atoll.errors import AtollError
from atoll.region.group_commit import GroupCommit
from atoll.store.port import View

Gate = Callable[[View], None]
"""Raises an AtollError while no local write may be committed on top of what the transaction shows.

A group of writes asks once: nothing can close between two of them.
"""


class LocalWrite:
    """One write and who waits for its answer."""

    __slots__ = ("_result", "_writes", "answer", "write")

    def __init__(self, write: Write, writes: LocalWrites, answer: asyncio.Future[Receipt]) -> None:
        self.write = write
        self.answer = answer
        self._writes = writes
        self._result: Receipt | AtollError

    @property
    def abandoned(self) -> bool:
        return self.answer.done()

    def want(self, wants: Wants) -> None:
        for mutation in self.write.mutations:
            wants.document(mutation.collection, mutation.key)
        if self.write.idempotency_key is not None:
            wants.answers.append(self.write.idempotency_key)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: a write that is refused leaves no trace in the batch, and the others go on."""
        try:
            if not batch.admits_writes:
                for gate in self._writes.gates:
                    gate(view)
                batch.admits_writes = True
            self._result = batch.write(self.write, self._writes.admit)
        except AtollError as error:
            self._result = error
        except Exception as error:
            self._result = AtollError(f"the write failed unexpectedly: {error!r}")
            self._result.__cause__ = error

    def committed(self) -> None:
        if self.answer.done():
            return
        if isinstance(self._result, AtollError):
            self.answer.set_exception(self._result)
        else:
            self.answer.set_result(self._result)

    def failed(self, error: AtollError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class LocalWrites:
    """Commits the writes of this node's clients, and those that peers forward."""

    def __init__(
        self, group_commit: GroupCommit, gates: Sequence[Gate] = (), admit: Admit | None = None
    ) -> None:
        self.gates = tuple(gates)
        self.admit = admit
        self._group_commit = group_commit

    async def write(self, write: Write) -> Receipt:
        """Commit a local write; durable on return.

        Raises RequestErrors, what the gates, `admit` and the store raise (Indefinite among it), and Overloaded. A
        caller that is cancelled does not know whether it was committed.
        """
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._group_commit.submit(LocalWrite(write, self, answer))
        return await answer
