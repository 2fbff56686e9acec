"""A committed transaction becomes an entry of its coordinator's region."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from atoll.causality.types import Seq, Stamp
from atoll.commit import idempotency
from atoll.commit.batch import Batch
from atoll.commit.draft import written_of
from atoll.commit.identity import Address
from atoll.commit.work import Wants
from atoll.consensus.claims import Claim
from atoll.consensus.decided import Placed, change_of, written
from atoll.consensus.references import Beside
from atoll.documents.decided import DECIDED
from atoll.documents.mutation import Check, Mutation, Receipt, Write, Written, weight_of
from atoll.errors import AtollError, Indefinite
from atoll.region.group_commit import Awaited
from atoll.region.local_writes import LocalWrites
from atoll.store.port import Remembered, View

TRANSACTIONS: Final = "transaction"
"""The space of states that say what else is written when a transaction commits: its identifier → `Kept`."""
_encode = msgspec.msgpack.Encoder().encode


class Asked(NamedTuple):
    """A transaction by where its parts belong."""

    write: Write
    held: Mapping[Address, tuple[Mutation | Claim | Beside, ...]]
    """Of strong documents, of the claims of their unique fields, and of what they refer to."""
    beside: tuple[Mutation, ...]
    """Writes of other documents, which become part of its entry."""

    @property
    def named(self) -> set[Address]:
        """Documents that were asked for."""
        return {(each.collection, each.key) for each in self.write.mutations}

    @property
    def registers(self) -> tuple[str, ...]:
        return tuple(sorted("/".join(address) for address in self.held))

    @property
    def beside_bytes(self) -> int:
        """About so much the other writes add to its entry and to its answer."""
        return len(_encode(self.beside)) if self.beside else 0


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """What else a transaction writes: durable before it may commit."""

    beside: tuple[Mutation, ...]
    participants: tuple[str, ...]


_decode = msgspec.msgpack.Decoder(Kept).decode


def kept_of(stored: bytes) -> Kept:
    """Raises msgspec.DecodeError."""
    return _decode(stored)


class Keep(NamedTuple):
    """A step: a transaction's `Kept` is put there, or removed."""

    transaction: str
    kept: Kept | None = None

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        kept = None if self.kept is None else _encode(self.kept)
        batch.pending.states[TRANSACTIONS, self.transaction] = kept


class Concluding(Awaited[Receipt]):
    """A work: the entry of a committed transaction."""

    __slots__ = ("_asked", "_transaction", "_values", "_writes")

    def __init__(
        self, transaction: str, asked: Asked, values: Mapping[Address, Placed], writes: LocalWrites
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._transaction = transaction
        self._asked = asked
        self._values = values
        self._writes = writes

    def want(self, wants: Wants) -> None:
        wants.gates = self._writes.gates
        wants.states.append((TRANSACTIONS, self._transaction))
        for address, placed in self._values.items():
            wants.document(*address)
            wants.weight_bytes += 0 if placed.after is None else len(placed.after.value or b"")
        for mutation in self._asked.beside:
            wants.document(mutation.collection, mutation.key)
            wants.weight_bytes += weight_of(mutation)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: the transaction has happened, whether it can be recorded here or not."""
        try:
            if batch.closed is not None:
                raise batch.closed
            self.result = self._concluded(batch, view)
        except AtollError as error:
            self.result = Indefinite(
                f"the transaction is committed, and this region cannot record it: {error.message}"
            )

    def _concluded(self, batch: Batch, view: View) -> Receipt:
        place, write = (TRANSACTIONS, self._transaction), self._asked.write
        beside = self._asked.beside
        if beside and place not in view.states:
            beside = ()  # another node was faster
        changes = [change_of(at, placed.after) for at, placed in self._values.items() if placed.after]
        entry = batch.learn(changes, msgspec.structs.replace(write, mutations=beside))
        if self._asked.beside:
            batch.pending.states[place] = None
        told = () if write.brief else tuple(self._written(batch))
        if entry is None:
            stamp = max((placed.before.stamp for placed in self._values.values()), default=0)
            return Receipt(DECIDED, Seq(0), Stamp(stamp), told)
        receipt = Receipt(entry.origin, entry.seq, entry.stamp, told)
        if write.idempotency_key is not None:
            answer = idempotency.answer_of(receipt, write)
            batch.pending.remembered.append(Remembered(write.idempotency_key, batch.now_ms, answer))
        return receipt

    def _written(self, batch: Batch) -> list[Written]:
        addresses = dict.fromkeys(
            (each.collection, each.key) for each in self._asked.write.mutations if not isinstance(each, Check)
        )
        return [
            written(address, value.after or value.before)
            if (value := self._values.get(address)) is not None
            else written_of(address, batch.row(address))
            for address in addresses
        ]
