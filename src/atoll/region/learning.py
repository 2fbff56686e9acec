"""What a register has decided becomes journal entries of this region."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from atoll.causality.types import Seq, Stamp
from atoll.commit import idempotency
from atoll.commit.batch import Batch
from atoll.commit.identity import Address
from atoll.commit.work import Gate, Wants
from atoll.consensus.acceptor import Accept
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.decided import Decided, Placed, change_of, written
from atoll.consensus.outcome import Outcome
from atoll.documents.decided import DECIDED
from atoll.documents.mutation import Receipt, Write
from atoll.errors import AtollError, Indefinite
from atoll.region.group_commit import Awaited
from atoll.region.voting import Voting
from atoll.replication.messages import PlaceCall, VoteCall
from atoll.store.port import Remembered, View

_AT_ONCE_BYTES = 1 << 20
"""So much is decided in one work of the group commit, and the rest in others."""


class Change:
    """A write to one register that waits for its answer; without a write a question what the register holds."""

    __slots__ = ("by", "done", "doubted", "id", "movable", "sent", "since_s", "value", "write")

    def __init__(
        self,
        write: Write | None,
        id: bytes,
        *,
        by: str = "",
        movable: bool = False,
        sent: bool = False,
        doubted: int | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.write = write
        self.id = id
        self.by = by
        """The region that has forwarded it."""
        self.movable = movable
        """Whether another region may propose it instead."""
        self.sent = sent
        """Whether a proposal with it has left, which may be decided yet unless another one is."""
        self.doubted = doubted
        """A revision that the document had before it, where it was forwarded without an answer.

        Then another region may propose it at any later time."""
        self.since_s = loop.time()
        self.done: asyncio.Future[Receipt] = loop.create_future()
        self.value: Decided | None = None
        """The register after it, once that is decided."""

    @property
    def local(self) -> bool:
        """Whether it is known to this node alone. Once this one has decided it, nobody proposes it again."""
        write = self.write
        return write is not None and write.idempotency_key is None and not self.by and self.doubted is None

    def fail(self, error: Exception) -> None:
        """It was not decided, as far as this region knows."""
        doubtful = self.write is not None and (self.sent or self.doubted is not None)
        if doubtful and isinstance(error, AtollError) and error.definite:
            error = Indefinite(
                f"the change was proposed or forwarded, and may be made yet ({error.message}); repeat the request "
                "with the same idempotency key"
            )
        self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """It was decided not to make it."""
        if not self.done.done():
            self.done.set_exception(error)

    journals: ClassVar[bool] = True
    """Whether what it comes to is an entry, which precedes the answer."""

    def answered(self, step: Step) -> bool:
        """Answer if nothing has to be journaled first; whether that is so."""
        return not self.journals


class Unasked(Change):
    """What was found decided, and has to be journaled; nobody waits for it."""

    __slots__ = ()

    def fail(self, error: Exception) -> None:
        pass


class Placing(Change):
    """The wish to put a transaction's intent on a register; it has its answer once that is decided."""

    __slots__ = ("fingerprint", "intent", "mutations", "placed")

    journals = False

    def __init__(self, call: PlaceCall, *, movable: bool = False) -> None:
        super().__init__(None, call.id, by=call.by, movable=movable)
        self.mutations = call.mutations
        self.intent = call.intent
        self.fingerprint = call.fingerprint
        self.placed: asyncio.Future[Placed] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.placed.done():
            self.placed.set_exception(error)

    def answered(self, step: Step) -> bool:
        if step.error is not None:
            self.fail(step.error)
        elif step.placed is not None and not self.placed.done():
            self.placed.set_result(step.placed)
        return super().answered(step)


class Settling(Change):
    """Take the intent of a transaction off."""

    __slots__ = ("journaled", "outcome", "settled", "transaction")

    journals = False

    def __init__(self, transaction: str, outcome: Outcome, *, journaled: bool) -> None:
        super().__init__(None, b"")
        self.journaled = journaled
        """Whether what comes of it is in the coordinator's journal."""
        self.transaction = transaction
        self.outcome = outcome
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.settled.done():
            self.settled.set_exception(error)

    def answered(self, step: Step) -> bool:
        if not self.settled.done():
            self.settled.set_result(None)
        return super().answered(step)


def together(waiting: list[Change], most: int) -> list[Change]:
    """Take those that become one proposal, `most` at most.

    Intents are taken off first. One that is put on is the last: what comes after it has to wait for its outcome. It is
    the one of the oldest transaction.
    """
    if len(waiting) == 1:
        return [waiting.pop()]
    placings = [change for change in waiting if isinstance(change, Placing)]
    oldest = min(placings, key=lambda change: change.intent.rank, default=None)
    changes: list[Change] = [change for change in waiting if isinstance(change, Settling)]
    changes += [change for change in waiting if not isinstance(change, Placing | Settling)]
    changes = changes[: most - 1] + ([] if oldest is None else [oldest])
    taken = set(map(id, changes))
    waiting[:] = [change for change in waiting if id(change) not in taken]
    return changes


class Step:
    """What one change came to in a proposal."""

    __slots__ = ("change", "error", "made", "placed", "replayed", "value")

    def __init__(
        self,
        change: Change,
        value: Decided,
        *,
        error: AtollError | None = None,
        made: bool = False,
        replayed: bool = False,
        placed: Placed | None = None,
    ) -> None:
        self.change = change
        self.value = value
        self.error = error
        """Why it was refused, going by the value before."""
        self.made = made
        """Whether the value is what the change has made. Else an earlier change has, which may not be journaled yet."""
        self.replayed = replayed
        self.placed = placed


class Learning(Awaited[list[Receipt | AtollError]]):
    """A work: the entries of one decided proposal, and the answers to its changes."""

    __slots__ = ("_address", "_gates", "_steps")

    def __init__(self, address: Address, steps: Sequence[Step], gates: Sequence[Gate]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._address = address
        self._steps = steps
        self._gates = gates

    def want(self, wants: Wants) -> None:
        wants.gates = self._gates
        wants.document(*self._address)
        wants.records += [each.record.id for step in self._steps for each in step.value.lost]

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: what was decided has happened, whether it can be recorded here or not."""
        try:
            if batch.closed is not None:
                raise batch.closed
            self.result = [self._taken(batch, step) for step in self._steps]
        except AtollError as error:
            self.result = Indefinite(
                f"a majority has decided it, and this region cannot record it: {error.message}"
            )

    def _taken(self, batch: Batch, step: Step) -> Receipt | AtollError:
        value, write = step.value, step.change.write
        entry = None
        if value.revision:
            trace = write.trace if write is not None and step.made else None
            entry = batch.learn([change_of(self._address, value)], Write((), trace=trace))
        if step.error is not None:
            return step.error
        told = () if write is None or write.brief else (written(self._address, value),)
        if entry is None or not step.made:
            return Receipt(DECIDED, Seq(0), Stamp(value.stamp), told, replayed=step.replayed)
        receipt = Receipt(entry.origin, entry.seq, entry.stamp, told, replayed=step.replayed)
        if write is not None and write.idempotency_key is not None:
            answer = idempotency.answer_of(receipt, write)
            batch.pending.remembered.append(Remembered(write.idempotency_key, batch.now_ms, answer))
        return receipt


class Deciding(Learning):
    """What of `OwnVotes` is about one proposal."""

    __slots__ = ("_already", "accept", "decided")

    def __init__(
        self, address: Address, steps: Sequence[Step], gates: Sequence[Gate], accept: Accept, *, decided: bool
    ) -> None:
        """`decided`: it is so already, and this region's vote is one more. Else only this vote is missing."""
        super().__init__(address, steps, gates)
        self.accept = accept
        self._already = decided
        self.decided = False
        """Whether it is, by the transaction that has been committed."""

    @property
    def size_bytes(self) -> int:
        return len(self.accept.value) + sum(len(step.value.value or b"") for step in self._steps)

    def conclude(self, batch: Batch, view: View, *, granted: bool) -> None:
        """Raises nothing."""
        self.decided = self._already or granted
        if self.decided:
            self.perform(batch, view)
        else:
            self.result = []


class OwnVotes(Awaited[None]):
    """A work: this region's acceptors vote for what it proposes, and what is decided by that becomes entries.

    Proposals of many registers share it, until the transaction begins.
    """

    __slots__ = ("_call", "_counted", "_room", "_voting", "deciding")

    def __init__(self, voting: Voting, counted: Counted, first: Deciding) -> None:
        self._voting = voting
        self._counted = counted
        self.deciding = [first]
        self._room = _AT_ONCE_BYTES - first.size_bytes
        self._call: VoteCall | None = None
        """Once the transaction begins."""

    def join(self, counted: Counted, deciding: Deciding) -> bool:
        """Let it be part of the work; False where it is too late, or too much, or counts otherwise."""
        if self._call is not None or self.abandoned or self._room <= 0 or counted != self._counted:
            return False
        self.deciding.append(deciding)
        self._room -= deciding.size_bytes
        return True

    @property
    def abandoned(self) -> bool:
        return all(each.abandoned for each in self.deciding)

    def want(self, wants: Wants) -> None:
        self._call = VoteCall.of(self._counted, *(each.accept for each in self.deciding))
        for each in self.deciding:
            each.want(wants)
        self._voting.want(wants, self._call)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing."""
        assert self._call is not None, "it was wanted"
        try:
            votes = self._voting.cast(batch, view, self._call).votes
        except (AtollError, msgspec.DecodeError):
            votes = ()  # it cannot vote: others may
        for number, each in enumerate(self.deciding):
            each.conclude(batch, view, granted=number < len(votes) and votes[number].granted)

    def committed(self) -> None:
        for each in self.deciding:
            each.committed()

    def failed(self, error: AtollError) -> None:
        for each in self.deciding:
            each.failed(error)
