"""Writes: who may commit one, and what must hold before it is committed here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TypeVar

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.commit.checks import check_batch
from atoll.commit.identity import Address
from atoll.consensus.claims import Claim
from atoll.consensus.references import Beside
from atoll.documents import document as documents
from atoll.documents.mutation import Check, Mutation, Put, Receipt, Transfer, Write, fields_of
from atoll.documents.rules import Rules, in_life
from atoll.errors import AtollError, Indefinite, RegionUnreachable, Unavailable
from atoll.lattices.base import Escrowed
from atoll.ownership.escrow import Escrow
from atoll.ownership.ownership import Seen
from atoll.region.local_writes import LocalWrites
from atoll.region.site import Site
from atoll.region.transactions import Transactions
from atoll.region.waits import Admission
from atoll.replication.beside import Turns
from atoll.replication.failure import Failure
from atoll.replication.messages import (
    PlaceCall,
    PlaceReply,
    WriteCall,
    WriteReply,
    WritesCall,
    WritesReply,
)
from atoll.store.port import Documents

T = TypeVar("T")

_LOOK_BYTES = 16 << 10
"""What it weighs to look a document up, small as it may be."""


class Writer:
    """Of one node: it commits here, or forwards to the region that owns the documents."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        links: Collection[str],
        store: Documents,
        *,
        writes: LocalWrites,
        admission: Admission,
        transactions: Transactions,
        origin: Callable[[], Origin],
    ) -> None:
        """`origin` tells under which the region numbers at present."""
        self.escrow = Escrow(
            origin,
            self._holders,
            self._ask,
            writes.group_commit.progress.covered,
            lambda: asyncio.get_running_loop().time(),
            timeout_s=site.options.escrow_timeout_s,
        )
        self._escrowed = frozenset(
            name
            for name, each in rules.items()
            if any(isinstance(lattice, Escrowed) for lattice in each.lattices.values())
        )
        self._falling_back = frozenset(
            name for name, each in rules.items() if each.schema.policy.fallback == "escrow"
        )
        self._region = site.name
        self._rules = rules
        self._store = store
        self._progress = writes.group_commit.progress
        self._ownership, self._gates, self._waits, self._statistics = admission
        self._writes = writes
        self._transactions = transactions
        self._registers = transactions.registers
        self._peers = site.peers
        self._others = links
        self._options = site.options

    async def write(self, write: Write, token: Mapping[str, int] | None = None) -> WriteReply:
        """Commit where the write belongs: here, or in the region that owns the documents.

        `token` is what the session has seen: in collections that are more than eventually consistent the
        write waits until it comes after that. Raises RequestErrors, TokenNotReached, RegionUnreachable,
        Indefinite, StoreUnwritable, ClockUnsafe, Overloaded.
        """
        check_batch(len(write.mutations))
        if self._registers.concerns(write):
            if (
                len(write.mutations) > 1
                or isinstance(write.mutations[0], Check | Transfer)
                or self._transactions.claims.concern(write.mutations[0])
            ):
                return await self._transactions.commit(write, token)
            return await self._change(write, token)
        if not self._ownership.concerns(write):
            return await self._write_here(write, token)
        owner = await self._owner(write)
        if owner is None:
            # What is waited for here may bring the document, and with it say whose it is.
            await self._gates.wait()
            await self._catch_up(write, token)
            owner = await self._owner(write)
        if owner == self._region:
            await self._gates.ordered()
        if owner is None or owner == self._region:
            return await self._write_here(write, token)
        self._statistics.forwarded += 1
        return await self._ask(owner, write, self._options.peer_timeout_s, token)

    async def take(self, call: WriteCall) -> WriteReply:
        """A write that a peer has forwarded: it is never forwarded again."""
        write, token = call.write, call.vector
        check_batch(len(write.mutations))
        await self._check_declared(write.mutations)
        if self._registers.concerns(write):
            return await self._registers.change(write, token, call.id, call.by, call.doubted)
        if self.escrow.keeps(write.mutations):
            nothing = Receipt(Origin(self._region), Seq(0), Stamp(0), ())
            return WriteReply(nothing, self._writes.group_commit.progress.vector)
        owner = await self._owner(write)
        if owner not in (None, self._region):
            raise RegionUnreachable(
                f"{self._region} expects {owner} to own this document; send the write again", owner=owner
            )
        if owner is not None:
            await self._gates.ordered()
        return await self._write_here(write, token)

    async def place(self, call: PlaceCall) -> PlaceReply:
        """An intent that a peer has forwarded. Raises what `take` raises."""
        await self._check_declared(call.mutations)
        return await self._registers.place(call)

    async def take_all(self, call: WritesCall) -> WritesReply:
        """Several of them, at once. Raises nothing that concerns one alone."""

        async def taken(each: WriteCall) -> tuple[WriteReply | None, Failure | None]:
            try:
                return await self.take(each), None
            except AtollError as error:
                return None, Failure.of(error)

        return WritesReply(tuple(await asyncio.gather(*map(taken, call.calls))))

    async def commit_here(self, write: Write, commit: Callable[[], Awaitable[T]]) -> T:
        """Have `commit` make these changes as part of an entry of this region, once it has the rights that they need.

        Raises RegionUnreachable where another region makes them, Unavailable, and what `commit` raises.
        """
        if self._ownership.concerns(write):
            owner = await self._owner(write)
            if owner not in (None, self._region):
                raise RegionUnreachable(
                    f"{owner} writes this document, so it cannot be part of an entry of {self._region}; write it by a"
                    " request of its own",
                    owner=owner,
                )
            if owner is not None:
                await self._gates.ordered()
        if not self._gates.admits_writes():
            await self._gates.admit()
        if self._needs_rights(write):
            return await self.escrow.write(commit)
        return await commit()

    # -- whose it is -----------------------------------------------------------------------------------

    async def _owner(self, write: Write) -> str | None:
        entered = self._gates.enter()
        seen: dict[Address, Seen] = {}
        turns = Turns()
        for address in self._ownership.concerned(write):
            row = await self._store.get(*address)
            seen[address] = self._ownership.seen(address[0], row)
            await turns.after(_LOOK_BYTES + (0 if row is None else row.size_bytes))
        self._gates.leave(entered)
        return self._ownership.of_write(write, seen.get)

    async def _check_declared(self, mutations: Iterable[Mutation | Claim | Beside]) -> None:
        """Raises Unavailable for what only the newer declarations of a peer know: half of it would be lost here."""
        turns = Turns()
        for mutation in mutations:
            if isinstance(mutation, Put):
                await turns.after(len(mutation.plain))
            rules = self._rules.get(mutation.collection) or self._registers.proposer.rules.get(
                mutation.collection
            )
            named = frozenset() if isinstance(mutation, Claim | Beside) else fields_of(mutation)
            if rules is None or named - rules.known:
                raise Unavailable(
                    f"{self._region} orders the writes of {mutation.collection}/{mutation.key} and still runs other "
                    "declarations, which lack some of the written fields; try again after its upgrade",
                    region=self._region,
                )

    async def _ask(
        self, region: str, write: Write, timeout_s: float, token: Mapping[str, int] | None = None
    ) -> WriteReply:
        try:
            reply = await self._peers.call(region, WriteCall(write, dict(token or {})), timeout_s=timeout_s)
        except RegionUnreachable as error:
            raise RegionUnreachable(
                f"{region} must execute this write and cannot be reached from {self._region}: {error.message}",
                region=region,
            ) from error
        if not isinstance(reply, WriteReply):
            raise AtollError(f"{region} answered a write with {type(reply).__name__}")
        return reply

    async def _holders(self, collection: str, key: str, field: str) -> dict[str, int]:
        row = await self._store.get(collection, key)
        if row is None:
            return {}
        rules = self._rules[collection]
        document = documents.decode_row(rules, row)
        state = document.lattices.get(in_life(field, document.life))
        lattice = rules.lattices[field]
        if state is None or not isinstance(lattice, Escrowed):
            return {}
        return {peer: lattice.rights(state, peer, self._ownership.heirs) for peer in self._others}

    async def _change(self, write: Write, token: Mapping[str, int] | None) -> WriteReply:
        """By a majority; here, and marked, where none can be asked and the collection takes such writes."""
        registers, collection = self._registers, write.mutations[0].collection
        policy, tentative = registers.proposer.rules[collection].schema.policy, registers.tentative
        if not policy.writes_when_cut_off:
            return await registers.change(write, token)
        if not registers.cut_off or tentative.doubts(write):
            try:
                return await registers.change(write, token)
            except Indefinite:
                tentative.note_doubt(write)
                raise
            except RegionUnreachable:
                if tentative.doubts(write):
                    raise
                registers.note_cut_off()
        if token:
            await self._waits.require(token)
        await self._gates.admit()
        receipt = await tentative.write(write)
        self._statistics.degraded[f"write/{policy.fallback}"] += 1
        return WriteReply(receipt, self._progress.vector)

    # -- here ------------------------------------------------------------------------------------------

    async def _write_here(self, write: Write, token: Mapping[str, int] | None) -> WriteReply:
        closings: int | None = self._gates.closings
        while True:
            try:
                if token:
                    await self._catch_up(write, token)
                if not self._gates.admits_writes():
                    await self._gates.admit()
                if self._needs_rights(write):
                    receipt = await self.escrow.write(lambda: self._writes.write(write))
                else:
                    receipt = await self._writes.write(write)
                if self._falling_back and self._cut_off_from_rights(write):
                    self._statistics.degraded["write/escrow"] += 1
                    receipt = msgspec.structs.replace(receipt, degraded="escrow")
                return WriteReply(receipt, self._progress.vector)
            except Unavailable:
                # It may be this write that found another database there. It surely did nothing: once more then.
                if closings in (None, self._gates.closings):
                    raise
                closings = None

    def _needs_rights(self, write: Write) -> bool:
        return bool(self._escrowed) and any(each.collection in self._escrowed for each in write.mutations)

    def _cut_off_from_rights(self, write: Write) -> bool:
        """Whether the write had only the rights that this region holds, and no majority would have had more."""
        if self._registers.proposer.reaches_majority():
            return False
        return any(each.collection in self._falling_back for each in write.mutations)

    async def _catch_up(self, write: Write, token: Mapping[str, int] | None) -> None:
        if token and not vectors.descends(self._progress.vector, token) and self._ordered(write):
            await self._waits.require(token)

    def _ordered(self, write: Write) -> bool:
        """Whether the write must come after what its session has seen."""
        policies = (self._rules[mutation.collection].schema.policy for mutation in write.mutations)
        return any(policy.consistency != "eventual" and policy.fallback != "escrow" for policy in policies)
