"""Local writes as works of the group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

from atoll.commit.batch import Admit, Batch
from atoll.commit.identity import Address
from atoll.commit.work import Gate, Wants
from atoll.documents.mutation import Receipt, Write, weight_of
from atoll.errors import AtollError
from atoll.region.commit_wait import CommitWait
from atoll.region.group_commit import Awaited, GroupCommit
from atoll.region.holders import Holders
from atoll.region.references import References, Touched
from atoll.store.port import Row, View


class LocalWrite(Awaited[Receipt]):
    """One write and who waits for its answer."""

    degraded: ClassVar[str | None] = None
    """The fallback that is taken by it."""

    __slots__ = ("_admit", "_touched", "_write", "_writes")

    def __init__(
        self, write: Write, writes: LocalWrites, admit: Admit | None = None, touched: Touched | None = None
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._touched = touched
        self._admit = admit or writes.admit
        self._write = write
        self._writes = writes

    def want(self, wants: Wants) -> None:
        wants.gates = self._writes.gates
        for mutation in self._write.mutations:
            wants.document(mutation.collection, mutation.key)
            wants.weight_bytes += weight_of(mutation)
        wants.divisible = len(self._write.mutations) > 1
        if self._write.idempotency_key is not None:
            wants.answers.append(self._write.idempotency_key)
        if self._touched is not None:
            self._touched.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: a write that is refused leaves no trace in the batch, and the others go on."""
        try:
            if batch.closed is not None:
                raise batch.closed
            if self._touched is None:
                self.result = batch.write(self._write, self._admit, self.degraded)
            else:
                admit = self._admitting(self._touched, batch, view)
                self.result = batch.write(self._write, admit, self.degraded)
                self._touched.done(batch, self.result)
        except AtollError as error:
            self.result = error
        except Exception as error:
            self.result = AtollError(f"the write failed unexpectedly: {error!r}")
            self.result.__cause__ = error

    def _admitting(self, touched: Touched, batch: Batch, view: View) -> Admit:
        admit = self._admit

        def both(write: Write, row: Callable[[Address], Row | None]) -> None:
            if admit is not None:
                admit(write, row)
            touched.check(batch, view)

        return both


class Checks(NamedTuple):
    """What is looked up of other documents before a write."""

    holders: Holders
    references: References


class LocalWrites:
    """Commits the writes of this node's clients, and those that peers forward."""

    def __init__(
        self,
        group_commit: GroupCommit,
        gates: Sequence[Gate] = (),
        admit: Admit | None = None,
        commit_wait: CommitWait | None = None,
        checks: Checks | None = None,
    ) -> None:
        self._holders = None if checks is None else checks.holders
        self._references = None if checks is None else checks.references
        self._commit_wait = commit_wait
        self.gates = tuple(gates)
        self.admit = admit
        self.group_commit = group_commit

    async def write(self, write: Write) -> Receipt:
        """Commit a local write; durable on return, and in collections with `commit_wait` its order is certain.

        Raises RequestErrors, what the gates, `admit` and the store raise (Indefinite among it), and Overloaded; with
        `commit_wait` also ClockUnsafe and OrderUncertain. A caller that is cancelled does not know whether it was
        committed.
        """
        commit_wait = self._commit_wait
        if commit_wait is None or not commit_wait.concerns(write):
            return await self._committed(write)
        commit_wait.check()
        receipt = await self._committed(write)
        if receipt.seq:
            await commit_wait.over(receipt, self.group_commit.progress.vector)
        return receipt

    def _committed(self, write: Write) -> Awaitable[Receipt]:
        if self._references is not None and self._references.concern(write):
            return self._references.write(write, self._held)
        return self._held(write)

    def _held(self, write: Write, touched: Touched | None = None) -> Awaitable[Receipt]:
        if self._holders is not None and self._holders.concern(write):
            return self._holders.write(write, partial(self._submitted, touched=touched))
        return self._submitted(write, self.admit, touched)

    def _submitted(
        self, write: Write, admit: Admit | None, touched: Touched | None = None
    ) -> asyncio.Future[Receipt]:
        work = LocalWrite(write, self, admit, touched)
        self.group_commit.submit(work)
        return work.done
