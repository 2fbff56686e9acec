"""A committed transaction becomes an entry of its coordinator's region."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from atoll.causality.types import Seq, Stamp
from atoll.commit import idempotency
from atoll.commit.batch import Batch
from atoll.commit.checks import check_document, check_together
from atoll.commit.draft import written_of
from atoll.commit.identity import Address
from atoll.commit.work import Wants
from atoll.consensus.claims import Claim
from atoll.consensus.decided import Placed, change_of, written
from atoll.consensus.references import Beside
from atoll.documents.decided import DECIDED
from atoll.documents.document import encode_row
from atoll.documents.mutation import (
    Check,
    Mutation,
    Patch,
    Put,
    Receipt,
    Write,
    Written,
    put_of,
    weight_of,
)
from atoll.errors import AtollError, Indefinite, RequestError
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
    alone: bool = False
    """Whether it holds all that it needs."""

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
    instead: tuple[Put, ...] = ()
    """Patched documents as they would have been then: for those that have gone meanwhile."""

    def possible(self, batch: Batch) -> tuple[Mutation, ...]:
        """What of it is not refused by now, document by document: they may have changed."""
        instead: dict[Address, Mutation] = {(put.collection, put.key): put for put in self.instead}
        by_document: dict[Address, list[Mutation]] = {}
        for mutation in self.beside:
            by_document.setdefault((mutation.collection, mutation.key), []).append(mutation)
        found: list[Mutation] = []
        for address, mutations in by_document.items():
            try:
                batch.drafts(Write(tuple(mutations)))
                found += mutations
            except RequestError:
                found += [instead[address]] if address in instead else []
        return tuple(found)


_decode = msgspec.msgpack.Decoder(Kept).decode


def kept_of(stored: bytes) -> Kept:
    """Raises msgspec.DecodeError."""
    return _decode(stored)


class Keep(NamedTuple):
    """A step: what else a transaction writes is tried, and kept. Raises RequestErrors."""

    transaction: str
    beside: tuple[Mutation, ...]
    participants: tuple[str, ...]
    document_bytes: int

    def want(self, wants: Wants) -> None:
        _want(wants, self.beside)

    def perform(self, batch: Batch, view: View) -> None:
        patched = {(each.collection, each.key) for each in self.beside if isinstance(each, Patch)}
        instead: list[Put] = []
        size_bytes = 0
        for address, draft in batch.drafts(Write(self.beside)).items():
            if draft.added:
                known, row = batch.row(address), encode_row(draft.rules, draft.document)
                here = None if known is None else known.value
                check_document(address, here, row.value, self.document_bytes)
            shown = draft.shown() if address in patched else None
            if shown is not None:
                size_bytes += len(shown)
                instead.append(put_of(draft.rules, address[1], shown))
        check_together(size_bytes, "Patch fewer documents in one transaction")
        kept = Kept(self.beside, self.participants, tuple(instead))
        batch.pending.states[TRANSACTIONS, self.transaction] = _encode(kept)


class Drop(NamedTuple):
    """A step: a transaction writes nothing else."""

    transaction: str

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[TRANSACTIONS, self.transaction] = None


def _want(wants: Wants, beside: Sequence[Mutation]) -> None:
    for mutation in beside:
        wants.document(mutation.collection, mutation.key)
        wants.weight_bytes += weight_of(mutation)


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
        _want(wants, self._asked.beside)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises nothing: the transaction has happened, whether it can be recorded here or not."""
        try:
            if batch.closed is not None:
                raise batch.closed
            self.result = self._concluded(batch, view)
        except (AtollError, msgspec.DecodeError) as error:
            self.result = Indefinite(
                f"the transaction is committed, and this region cannot record it: {error}"
            )

    def _concluded(self, batch: Batch, view: View) -> Receipt:
        place, write = (TRANSACTIONS, self._transaction), self._asked.write
        # Where nothing is kept, there is nothing else, or another node was faster.
        kept = kept_of(view.states[place]) if place in view.states else Kept((), ())
        changes = [change_of(at, placed.after) for at, placed in self._values.items() if placed.after]
        try:
            entry = batch.learn(changes, msgspec.structs.replace(write, mutations=kept.beside))
        except RequestError:  # nothing may be refused any more
            entry = batch.learn(changes, msgspec.structs.replace(write, mutations=kept.possible(batch)))
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
