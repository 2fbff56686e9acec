"""Strong documents: each is a consensus register that any region changes and reads.

A change goes to the region that changed the register last, which proposes it. Changes of one register that wait in a
region become one proposal. What a majority has accepted is decided. The proposer journals it, so that it reaches
documents, feed and tokens of every region the ordinary way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from atoll.causality.types import Ballot, RegionName
from atoll.commit import idempotency
from atoll.commit.identity import Address, address_of
from atoll.consensus import acceptor, decided
from atoll.consensus.acceptor import Inspect
from atoll.consensus.decided import Decided, resolved
from atoll.documents.document import revision_in, version_tag
from atoll.documents.mutation import Receipt, Write
from atoll.errors import AtollError, Indefinite, RequestError, Unavailable
from atoll.region.learning import Change, Placing, Settling, Step, Unasked
from atoll.region.progress import Progress
from atoll.region.proposer import Moved, Proposer
from atoll.region.reading import Reading
from atoll.region.register import Register
from atoll.region.site import Site
from atoll.region.tentative import Tentative
from atoll.region.voting import REGISTERS
from atoll.region.waits import Admission
from atoll.replication.messages import (
    PlaceCall,
    PlaceReply,
    ReadCall,
    ReadReply,
    SettleCall,
    WriteCall,
    WriteReply,
)
from atoll.store.port import Row, Store

Answered = TypeVar("Answered", WriteReply, PlaceReply)
_FORWARD_S = 0.8
"""A change is proposed here if the region that it was forwarded to has neither answered nor decided by then."""
_HELD_S = 12.0
"""The same, if one transaction holds the register all the time: who proposes it has it aborted earlier."""
_MOVES = 3
"""A change that finds another proposer is forwarded so often; then it is proposed here."""
_MOST_OF_THEM = 12
"""For so many of the latest proposals, a region that sent most of their changes had better propose them itself."""


class Registers:
    """Of one node."""

    def __init__(
        self,
        site: Site,
        store: Store,
        *,
        proposer: Proposer,
        progress: Progress,
        admission: Admission,
    ) -> None:
        self._site = site
        self._store = store
        self.proposer = proposer
        self._progress = progress
        self.tentative = Tentative(site, store, proposer)
        self._cut_off = False
        _, self._gates, self._waits, self._statistics = admission

    @property
    def any(self) -> bool:
        """Whether any collection is declared so."""
        return bool(self.proposer.rules)

    def concerns(self, write: Write) -> bool:
        """Whether any of its documents is a register."""
        return bool(self.proposer.rules) and any(
            each.collection in self.proposer.rules for each in write.mutations
        )

    @property
    def cut_off(self) -> bool:
        """Whether a majority could not be asked, and links do not say that it can be by now."""
        if self.proposer.reaches_majority():
            self._cut_off = False
        return self._cut_off

    def note_cut_off(self) -> None:
        """A request has just found that no majority can be asked."""
        self._cut_off = True

    def concerns_reads(self, collection: str) -> bool:
        return collection in self.proposer.rules

    # -- requests --------------------------------------------------------------------------------------

    async def change(
        self,
        write: Write,
        token: Mapping[str, int] | None,
        id: bytes = b"",
        by: str = "",
        doubted: int | None = None,
    ) -> WriteReply:
        """Change one register; decided, and durable in a majority of regions, on return.

        `by` is the region that has forwarded it; `id` tells the change apart from every other. `doubted`: as in
        `WriteCall`. Raises RequestErrors, and RegionUnreachable where no majority can be asked. Raises Indefinite
        where a proposal may have been accepted, or the change may wait in another region.
        """
        mutation, key = write.mutations[0], write.idempotency_key
        register = self.proposer.of((mutation.collection, mutation.key))
        if not by:
            await self.tentative.fold(register)
        if key is not None:
            answers = await self._store.remembered([key])
            if key in answers:
                return WriteReply(idempotency.replay(answers[key], write), self._progress.vector)
            id = id or idempotency.identifier(key)
        id = id or self._site.random.getrandbits(96).to_bytes(12)
        call, sent = WriteCall(write, dict(token or {}), id, self._site.name, doubted), False
        for left in reversed(range(_MOVES)):
            movable = bool(left and not by)
            change = Change(write, id, by=by, movable=movable, sent=sent, doubted=call.doubted)
            try:
                found = call if by else await self._by_leader(register, call)
                if isinstance(found, WriteReply):
                    return found
                call, change.doubted = found, found.doubted
            except RequestError:
                raise
            except AtollError as error:
                change.fail(error)
            try:
                receipt = await self._proposed(register, change, token)
            except Moved:
                sent = change.sent
                continue
            return WriteReply(receipt, self._progress.vector, self._better(register, by))
        raise AssertionError("a change that may not move is decided or fails")

    async def _proposed(self, register: Register, change: Change, token: Mapping[str, int] | None) -> Receipt:
        if change.done.done():
            return await change.done
        try:
            if token:
                await self._waits.require(token)
            if not self._gates.admits_writes():
                await self._gates.admit()
            self.proposer.propose(register, change)
        except AtollError as error:
            change.fail(error)
        return await change.done

    async def place(self, call: PlaceCall) -> PlaceReply:
        """Put a transaction's intent on a register. Raises what `change` raises."""
        register = self.proposer.of((call.mutations[0].collection, call.mutations[0].key))
        forwarded = msgspec.structs.replace(call, by=self._site.name)
        for left in reversed(range(_MOVES)):
            leader = None if call.by else await self._leader(register)
            if leader is not None:
                self._statistics.forwarded += 1
                asked = asyncio.create_task(self._site.ask(leader, forwarded, PlaceReply))
                asked.add_done_callback(lambda task: task.cancelled() or task.exception())
                reply, _ = await self._forwarded(leader, register, asked)
                register.mine = reply is None or reply.yours
                if reply is not None:
                    return reply
            if not self._gates.admits_writes():
                await self._gates.admit()
            placing = Placing(call, movable=bool(left and not call.by))
            self.proposer.propose(register, placing)
            try:
                placed = await placing.placed
            except Moved:
                continue
            return PlaceReply(placed, self._better(register, call.by))
        raise AssertionError("an intent that may not move is decided or fails")

    async def settle(self, call: SettleCall, *, journaled: bool = True) -> None:
        """Take the intents of a transaction off registers. `journaled` says whether its coordinator has its entry.

        Raises what `change` raises.
        """
        self.proposer.outcomes.tell(call.transaction, call.outcome)
        waiting: list[asyncio.Future[None]] = []
        for name in call.registers:
            register = self._named(name)
            if register.address[0] not in self.proposer.rules:
                raise Unavailable(f"{register.address[0]} is not declared in {self._site.name} yet")
            settling = Settling(call.transaction, call.outcome, journaled=journaled)
            self.proposer.propose(register, settling)
            waiting.append(settling.settled)
        await asyncio.gather(*waiting)

    async def leader_of(self, name: str) -> RegionName:
        """The region that proposes a register's changes."""
        return await self._leader(self._named(name)) or self._site.name

    def _named(self, name: str) -> Register:
        return self.proposer.of(address_of(name))

    async def show(self, address: Address, value: Decided) -> None:
        """Have a decided value in this region's documents. Raises what recording it raises."""
        if value.revision > revision_in(await self._store.get(*address)):
            await self.proposer.learn(self.proposer.of(address), [Step(Change(None, b""), value)])

    async def read(self, collection: str, key: str, *, forward: bool = True) -> Reading:
        """What a majority has decided last, or what was decided since. Raises RegionUnreachable without a majority.

        It is read from this region's documents, once they hold it. So the reading's vector says what it shows.
        """
        register = self.proposer.of((collection, key))
        entered = self._gates.enter()
        leased = await self._leased(register) if forward else None
        if leased is not None:
            self._gates.leave(entered)
            return leased
        return await self.read_by_majority(register, forward=forward)

    async def read_by_majority(self, register: Register, *, forward: bool) -> Reading:
        """The same without any lease. Afterwards this region's documents show it, or those of who proposes it."""
        (collection, key), entered = register.address, self._gates.enter()
        await self.tentative.fold(register)
        value = await self._committed(register)
        if value is None:
            leader = await self._leader(register) if forward else None
            if leader is not None:
                try:
                    reply = await self._site.ask(leader, ReadCall(collection, key, {}), ReadReply)
                except (Unavailable, Indefinite):
                    pass
                else:
                    return Reading(reply.value, reply.version, leader, reply.vector)
            change = Change(None, b"")
            self.proposer.propose(register, change)
            await change.done
        row, vector = await self._store.read(collection, key)
        if value is not None and value.revision > revision_in(row):
            await self.proposer.learn(register, [Step(Change(None, b""), value)])
            row, vector = await self._store.read(collection, key)
        self._gates.leave(entered)
        if self.tentative.concerns(register, row):  # it came meanwhile
            return await self.read_by_majority(register, forward=forward)
        return self._reading(row, vector)

    async def _leased(self, register: Register) -> Reading | None:
        """What this node's lease allows to show; None where a majority has to be asked."""
        leases, address, loop = self.proposer.leases, register.address, asyncio.get_running_loop()
        if not leases.read(address, loop.time()):
            return None
        revision = leases.revision(address, loop.time())
        if revision is None:
            if register.held is None:
                return None
            change = Change(None, b"")  # as many round trips as to ask, and it brings the lease back
            self.proposer.propose(register, change)
            await change.done
            revision = 0
        elif leases.fades(address, loop.time()):
            self.proposer.propose(register, Unasked(None, b""))
        row, vector = await self._store.read(*address)
        return self._reading(row, vector) if revision_in(row) >= revision else None

    def _reading(self, row: Row | None, vector: Mapping[str, int]) -> Reading:
        tag = "" if row is None or row.value is None else version_tag(row)
        return Reading(None if row is None else row.value, tag, self._site.name, vector)

    async def committed(self, address: Address) -> Decided:
        """A register's value, as it is or was at some moment of this call. Raises what `read` raises."""
        register = self.proposer.of(address)
        await self.tentative.fold(register)
        for _ in range(_MOVES):
            value = await self._committed(register)
            if value is not None:
                return value
            await self.read_by_majority(register, forward=True)
        raise Unavailable(f"{register.name} is changed by others all the time; try again")

    async def _committed(self, register: Register) -> Decided | None:
        """The decided value, with what a committed transaction has made of it; None where that is not certain."""
        value = await self._inspected(register)
        while value is not None and value.intent is not None:
            transaction = value.intent.transaction
            outcome, certain = await self.proposer.outcomes.known(transaction)
            if outcome is not None:
                return resolved(register.name, value, outcome)
            if not certain:
                return None
            # Outcomes are dropped once no intent is left. So that there is none says something only with the intent.
            value = await self._inspected(register)
            if value is not None and value.intent is not None and value.intent.transaction == transaction:
                return msgspec.structs.replace(value, intent=None)
        return value

    async def _inspected(self, register: Register) -> Decided | None:
        """The decided value; None where acceptors differ at present."""
        counted = self.proposer.counted()
        found = await self.proposer.box.ask(Inspect(register.name), counted, until="decided")
        register.seen = max(register.seen, found.promised)
        if found.decided:
            return await self.proposer.value_of(register, found)
        if found.outcome == "unreachable" and self.proposer.counted() == counted:
            raise self.proposer.no_majority(found)
        return None

    # -- who proposes ----------------------------------------------------------------------------------

    async def _leader(self, register: Register) -> RegionName | None:
        """The region that should propose the next change; None for this one."""
        if register.held is not None or register.mine:
            return None
        region = max(await self._promised(register), register.seen).region
        return region if self.proposer.reaches(region) else None

    async def _promised(self, register: Register) -> Ballot:
        """The highest ballot that this region's acceptor has promised."""
        return acceptor.promised(await self._store.state(REGISTERS, register.name))

    async def _by_leader(self, register: Register, call: WriteCall) -> WriteReply | WriteCall:
        """The answer; or the call, in doubt or not, where the change should be proposed here. Raises RequestErrors."""
        leader = await self._leader(register)
        if leader is None:
            return call
        self._statistics.forwarded += 1
        revision = revision_in(await self._store.get(*register.address))
        asked = self.proposer.forwarding.send(leader, register.address, call)
        found, sure = await self._forwarded(leader, register, asked)
        register.mine = found is None or found.yours
        if found is None and not sure and call.doubted is None:
            return msgspec.structs.replace(call, doubted=revision)
        return found or call

    async def _forwarded(
        self, leader: str, register: Register, asked: asyncio.Future[Answered]
    ) -> tuple[Answered | None, bool]:
        """The reply, if there is one; and whether nothing was proposed otherwise. Raises RequestErrors."""
        loop, held = asyncio.get_running_loop(), ("", 0.0)
        try:
            promised = await self._promised(register)
            while not asked.done():
                await asyncio.wait({asked}, timeout=_FORWARD_S)
                stored = await self._store.state(REGISTERS, register.name)
                before, promised = promised, acceptor.promised(stored)
                busy = promised > before and promised.region == leader
                if not (busy or asked.done()):
                    # Whoever proposes waits for a transaction that holds the register, unless that is over.
                    intent = decided.decoded(acceptor.decoded(stored).value).intent
                    holder = "" if intent is None else intent.transaction
                    held = held if holder == held[0] else (holder, loop.time())
                    if not holder or loop.time() - held[1] > _HELD_S:
                        return None, False
        except AtollError:
            return None, False  # this region's store fails, and the call has left
        try:
            return asked.result(), True
        except RequestError:
            raise
        except AtollError as error:
            return None, error.definite

    @staticmethod
    def _better(register: Register, by: str) -> bool:
        """Whether the region `by` had better propose itself."""
        return bool(by) and register.tally.count(by) >= _MOST_OF_THEM
