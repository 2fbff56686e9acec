"""Transactions over strong documents: all of their writes happen, or none, and all transactions have one order.

1. **Intents.** Each register that a transaction names is asked to hold an intent: what it would become. What the
   transaction requires of the document is checked there. From then on nobody else changes the register.
2. **Outcome.** Once all hold theirs, the outcome is decided, in a register of its own: see `consensus.outcome`. At this
   moment the transaction has happened.
3. **Journal.** All that it wrote becomes one entry of this region, and the client has its answer.
4. **Settling.** The registers take over what the intents say.

Whoever meets an intent for too long has the transaction aborted, unless it is committed already, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.types import Seq, Stamp
from atoll.commit import idempotency
from atoll.commit.checks import check_together
from atoll.commit.identity import Address
from atoll.consensus.claims import Claim
from atoll.consensus.decided import Decided, Intent, Placed, wanted, written
from atoll.consensus.outcome import Outcome, aborted, register_of, transaction_id
from atoll.consensus.references import Beside
from atoll.documents.decided import DECIDED
from atoll.documents.mutation import Check, Delete, Mutation, Patch, Put, Receipt, Write, Written
from atoll.documents.references import refers
from atoll.documents.rules import Rules
from atoll.errors import (
    AtollError,
    ClaimsChanged,
    Indefinite,
    InvalidOperation,
    ReferenceViolation,
    RequestError,
    Unavailable,
    UniqueViolation,
)
from atoll.lattices.base import Escrowed
from atoll.region.claims import Claims
from atoll.region.concluding import Asked, Concluding, Drop, Keep, kept_of
from atoll.region.registers import Registers
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.region.voting import Voting
from atoll.region.waits import Admission
from atoll.replication.messages import PlaceCall, PlaceReply, SettleCall, SettleReply, WriteReply
from atoll.store.port import Store

MOST_DOCUMENTS: Final = 100
"""A transaction names so many strong documents at most."""
_COLLECTS: Final = 4
"""A snapshot that changes while it is read is read so often; then it holds the documents for a moment."""
_BACK_OFF_S: Final = 0.02


class Transactions:
    """Of one node. `close` it."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        store: Store,
        clock: HybridLogicalClock,
        *,
        registers: Registers,
        voting: Voting,
        admission: Admission,
    ) -> None:
        self._site = site
        self._rules = rules
        self._store = store
        self._clock = clock
        self._proposer = registers.proposer
        self.registers = registers
        self.claims = Claims(rules, registers, store)
        self.running = registers.proposer.outcomes.running
        self._voting = voting
        self._writes = registers.proposer.writes
        self._ownership, self._gates, self._waits, _ = admission
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    # -- writes ----------------------------------------------------------------------------------------

    async def commit(self, write: Write, token: Mapping[str, int] | None = None) -> WriteReply:
        """Do all of it or nothing; decided, and durable in a majority of regions, on return.

        Raises RequestErrors where a document is not as required, or a transaction cannot hold it. Raises Unavailable
        where it did not happen, and Indefinite where nobody can say. Who repeats it then with the same idempotency key
        hears what became of it.
        """
        asked = self.divided(write)
        if (key := write.idempotency_key) is not None:
            answers = await self._store.remembered([key])
            if key in answers:
                return WriteReply(idempotency.replay(answers[key], write), self._vector())
        if token:
            await self._waits.require(token)
        await self._gates.admit()
        if all(isinstance(mutation, Check) for mutation in write.mutations):
            return await self._checked(asked)
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        # A caller that goes away must not leave intents behind that others have to wait for.
        self._tasks.spawn(self._run(asked, done), "a transaction")
        return WriteReply(await done, self._vector())

    async def hold(self, held: Mapping[Address, tuple[Mutation | Claim | Beside, ...]]) -> bool:
        """Have these registers changed, and nothing else; whether it happened. Raises what `commit` raises."""
        await self._gates.admit()
        asked = Asked(Write((), brief=True), held, (), alone=True)
        return await self._attempted(asked, self._clock.now()) is not None

    def divided(self, write: Write) -> Asked:
        """Raises InvalidOperation."""
        held: dict[Address, tuple[Mutation, ...]] = {}
        beside: list[Mutation] = []
        for mutation in write.mutations:
            rules = self._rules[mutation.collection]
            if rules.schema.policy.by_quorum and isinstance(mutation, Check | Put | Delete | Patch):
                address = (mutation.collection, mutation.key)
                held[address] = (*held.get(address, ()), mutation)
            else:
                beside.append(mutation)
                self._check_beside(mutation, rules)
        if not held:
            raise InvalidOperation(
                "a transaction needs a document of a strong collection without placement and escrow; send writes of"
                " others as a batch"
            )
        if len(held) > MOST_DOCUMENTS:
            raise InvalidOperation(
                f"a transaction names at most {MOST_DOCUMENTS} strong documents, this one {len(held)}"
            )
        return Asked(write, held, tuple(beside))

    def _check_beside(self, mutation: Mutation, rules: Rules) -> None:
        """Raises InvalidOperation for what might be refused when the transaction is committed already."""
        name, policy = rules.name, rules.schema.policy
        if isinstance(mutation, Check):
            raise InvalidOperation(
                f"a transaction orders strong documents; {name} is {policy.consistency}, and read outside of it"
            )
        if policy.commit_wait:
            raise InvalidOperation(f"a transaction cannot write {name}: it does not wait for the clock")
        if policy.consistency == "strong" or self._ownership.concerns(Write((mutation,))):
            raise InvalidOperation(
                f"a transaction cannot write {name}: one region orders its documents, or with escrow each its own"
            )
        if rules.schema.unique:
            raise InvalidOperation(
                f"a transaction cannot write {name}: it has a unique field, and what is refused late would leave the"
                " transaction half done"
            )
        if why := refers(rules, mutation):
            raise InvalidOperation(
                f"a transaction cannot write {name}: it {why}, and what is refused late would leave the transaction"
                " half done"
            )
        unconditional = isinstance(mutation, Put | Patch | Delete) and mutation.if_match is None
        unconditional = unconditional and not (isinstance(mutation, Put) and mutation.if_absent)
        bounded = any(isinstance(lattice, Escrowed) for lattice in rules.lattices.values())
        if not unconditional or bounded:
            raise InvalidOperation(
                f"of {name}, which is {policy.consistency}, a transaction takes writes without a condition, and no"
                " bounded counters: what is refused late would leave the transaction half done"
            )

    async def _run(self, asked: Asked, done: asyncio.Future[Receipt]) -> None:
        try:
            receipt = await self._repeated(asked)
        except AtollError as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(receipt)
        finally:
            if not done.done():
                done.set_exception(Indefinite("this region stopped while it committed the transaction"))

    async def _repeated(self, asked: Asked) -> Receipt:
        """Attempts keep the age of the first one: a transaction that others abort is the oldest one soon."""
        loop, age, tries, sure = asyncio.get_running_loop(), self._clock.now(), 0, False
        until = loop.time() + 2 * self._site.options.peer_timeout_s
        while True:
            try:
                receipt = await self._attempted(await self.claims.beside(asked, sure=sure), age)
            except (ClaimsChanged, UniqueViolation, ReferenceViolation) as error:
                if sure and not isinstance(error, ClaimsChanged):
                    raise
                receipt = None
                if not sure:
                    sure = True  # what is shown here may be old
                    continue
            if receipt is not None:
                return receipt
            if loop.time() > until:
                raise Unavailable(
                    "others hold the documents of this transaction all the time; nothing was done: try again",
                    region=self._site.name,
                )
            tries += 1
            await asyncio.sleep(min(_BACK_OFF_S * 2**tries, 0.5) * (0.5 + self._site.random.random()))

    async def _attempted(self, asked: Asked, age: int) -> Receipt | None:
        """None where another transaction, or somebody's patience, aborted it."""
        transaction = transaction_id(self._site.now_ms(), self._site.random.getrandbits(64))
        participants = asked.registers
        self.running.add(transaction)
        try:
            if asked.beside:
                limit_bytes = self._site.options.document_bytes
                keep = Keep(transaction, asked.beside, participants, limit_bytes)
                await self._writes.group_commit.commit(keep)
            values = await self._placed(asked, Intent(transaction, self._site.name, age, participants))
            if values is None:
                await self._dropped(transaction, asked)
                return None
            if isinstance(values, Receipt):
                await self._dropped(transaction, asked)
                return values
            strong = sum(len(each.after.value or b"") for each in values.values() if each.after is not None)
            check_together(strong + asked.beside_bytes, "Write fewer documents in one transaction")
            outcome = await self._decided(transaction, values, self._site.name if asked.beside else "")
            if not outcome.committed:
                await self._dropped(transaction, asked, proposed=True)
                return None
        except Indefinite:
            raise
        except AtollError:
            await self._dropped(transaction, asked)
            raise
        finally:
            self.running.discard(transaction)
        work = Concluding(transaction, asked, values, self._writes)
        try:
            self._writes.group_commit.submit(work)
            receipt = await work.done
        except AtollError as error:
            raise Indefinite(
                f"the transaction is committed, and this region has not recorded it yet: {error.message}"
            ) from error
        self._tasks.spawn(self._settle(transaction, outcome), "settles a transaction")
        return receipt

    async def _decided(self, transaction: str, values: Mapping[Address, Placed], home: str = "") -> Outcome:
        """Committed, unless others have it aborted. Raises what `Outcomes.decide` raises."""
        revisions = {"/".join(address): placed.before.revision for address, placed in values.items()}
        commits = Outcome(True, revisions, home)
        return await self._proposer.outcomes.decide(transaction, commits, first=True)

    async def _placed(self, asked: Asked, intent: Intent) -> dict[Address, Placed] | Receipt | None:
        """What each register holds; the answer, where an earlier attempt has committed; None for one that is aborted.

        Raises why a register does not hold it.
        """
        key, id, fingerprint = asked.write.idempotency_key, b"", b""
        if key is not None:
            id = idempotency.identifier(key)
            fingerprint = idempotency.fingerprint(asked.write)
        calls = [
            PlaceCall(mutations, intent)
            if address not in asked.named
            else PlaceCall(mutations, intent, id, fingerprint)
            for address, mutations in asked.held.items()
        ]
        replies = await self._replies(calls)
        if replies is None:
            return None
        values: dict[Address, Placed] = {}
        errors: list[BaseException] = []
        for address, reply in zip(asked.held, replies, strict=True):
            if isinstance(reply, BaseException):
                errors.append(reply)
            else:
                values[address] = reply.placed
        earlier = [placed for placed in values.values() if placed.made is not None]
        if any(placed.made != fingerprint for placed in earlier):
            raise idempotency.reused(asked.write)
        if earlier:
            told = tuple(written(at, each.before) for at, each in values.items() if at in asked.named)
            told = () if asked.write.brief else told
            return Receipt(DECIDED, Seq(0), Stamp(earlier[0].before.stamp), told, replayed=True)
        for error in sorted(errors, key=lambda error: not isinstance(error, RequestError)):
            if isinstance(error, Indefinite):
                raise Unavailable(f"nothing was done: {error.message}", region=self._site.name)
            raise error
        self.claims.check(asked, values)
        return values

    async def _replies(self, calls: Sequence[PlaceCall]) -> list[PlaceReply | BaseException] | None:
        """What each register answers; None once the transaction is aborted for an older one."""

        async def all_of_them() -> list[PlaceReply | BaseException]:
            return await asyncio.gather(*map(self.registers.place, calls), return_exceptions=True)

        placing = asyncio.ensure_future(all_of_them())
        aborted = asyncio.ensure_future(self._proposer.outcomes.wait(calls[0].intent.transaction))
        either: list[asyncio.Future[Any]] = [placing, aborted]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return placing.result() if placing.done() else None
        finally:
            placing.cancel()
            aborted.cancel()

    # -- afterwards ------------------------------------------------------------------------------------

    async def _dropped(self, transaction: str, asked: Asked, *, proposed: bool = False) -> None:
        """Only its coordinator proposes that a transaction commits. So one that has not is aborted."""
        if asked.beside:
            await self._writes.group_commit.commit(Drop(transaction))
        settling = self._settle(transaction, aborted(asked.registers), sure=not proposed)
        self._tasks.spawn(settling, "drops a transaction")

    async def _settle(self, transaction: str, outcome: Outcome, *, sure: bool = True) -> None:
        """Have the intents taken off; what is left is done by whoever meets it.

        `sure`: no acceptor holds another outcome. Then nobody can come to another one once this one is dropped.
        """
        with contextlib.suppress(AtollError):
            by_leader: dict[str, list[str]] = {}
            for name in outcome.revisions:
                by_leader.setdefault(await self.registers.leader_of(name), []).append(name)
            told = await asyncio.gather(
                *(
                    self.tell(region, SettleCall(transaction, outcome, tuple(names)))
                    for region, names in by_leader.items()
                )
            )
            if sure and all(told):
                call = SettleCall(transaction, outcome, over=True)
                await asyncio.gather(*(self.tell(region, call) for region in self._proposer.counted().voters))

    async def tell(self, region: str, call: SettleCall) -> bool:
        """Whether a region has done it."""
        try:
            if region == self._site.name:
                await self.settle(call)
            else:
                await self._site.ask(region, call, SettleReply)
        except AtollError:
            return False
        return True

    async def settle(self, call: SettleCall) -> SettleReply:
        """What a coordinator says. Raises what `Registers.settle` and the store raise."""
        await self.registers.settle(call)
        if call.over:
            await self._voting.forget(register_of(call.transaction))
        return SettleReply()

    async def conclude(self, transaction: str, stored: bytes) -> None:
        """Write what a transaction whose coordinator is gone wrote beside its strong documents, if it is committed.

        Raises AtollError, msgspec.DecodeError.
        """
        kept = kept_of(stored)
        outcome = await self._proposer.outcomes.decide(transaction, aborted(kept.participants))
        if not outcome.committed:
            await self._writes.group_commit.commit(Drop(transaction))
            return
        asked = Asked(Write(kept.beside, brief=True), {}, kept.beside)
        work = Concluding(transaction, asked, {}, self._writes)
        self._writes.group_commit.submit(work)
        await work.done

    # -- reads -----------------------------------------------------------------------------------------

    async def snapshot(self, addresses: Sequence[Address]) -> tuple[list[Written], dict[str, int]]:
        """All documents as they were at one moment of this call, and what this region has by now.

        Raises InvalidOperation, RegionUnreachable, TooLarge.
        """
        for collection, _ in addresses:
            self._check_strong(collection)
        if not 0 < len(addresses) <= MOST_DOCUMENTS:
            raise InvalidOperation(
                f"a snapshot holds 1 to {MOST_DOCUMENTS} documents, this one {len(addresses)}"
            )
        found = await self._snapshot(addresses)
        if len(addresses) > 1:
            size_bytes = sum(len(value.value or b"") for value in found)
            check_together(size_bytes, "Read fewer documents in one snapshot")
        await self._learn(addresses, found)
        return list(map(written, addresses, found)), self._vector()

    async def _snapshot(self, addresses: Sequence[Address]) -> list[Decided]:
        before: list[Decided] | None = None
        for _ in range(_COLLECTS):
            values = await self._collected(addresses)
            if before is not None and [each.revision for each in before] == [
                each.revision for each in values
            ]:
                return values  # registers only go forward: all were so between the two collects
            if len(addresses) == 1:
                return values
            before = values
        return await self._held(addresses)

    async def _held(self, addresses: Sequence[Address]) -> list[Decided]:
        """As they are while this holds them."""
        write = Write(tuple(Check(*address) for address in addresses))
        asked, age = self.divided(write), self._clock.now()
        for _ in range(_COLLECTS):
            transaction = transaction_id(self._site.now_ms(), self._site.random.getrandbits(64))
            self.running.add(transaction)
            try:
                values = await self._placed(asked, Intent(transaction, self._site.name, age, asked.registers))
                if values is None:
                    continue
                assert not isinstance(values, Receipt), "checks have no idempotency key"
                outcome = await self._decided(transaction, values)
            finally:
                self.running.discard(transaction)
            settling = self._settle(transaction, outcome, sure=outcome.committed)
            self._tasks.spawn(settling, "settles a snapshot")
            if outcome.committed:
                return [values[address].before for address in addresses]
        raise Unavailable("others hold the documents of this snapshot all the time; try again")

    async def _checked(self, asked: Asked) -> WriteReply:
        """A transaction that wrote nothing: what it has read must still be there, all of it."""
        addresses = list(asked.held)
        values = await self._collected(addresses)
        for address, value in zip(addresses, values, strict=True):
            wanted(self._rules[address[0]], value, asked.held[address], Stamp(value.stamp), None)
        await self._learn(addresses, values)
        stamp = max(value.stamp for value in values)
        return WriteReply(Receipt(DECIDED, Seq(0), Stamp(stamp), ()), self._vector())

    def _check_strong(self, collection: str) -> None:
        rules = self._rules[collection]
        if not rules.schema.policy.by_quorum:
            raise InvalidOperation(
                f"a transaction reads strong documents without placement and escrow, and {collection} is none; read"
                " it outside of the transaction"
            )

    async def _collected(self, addresses: Sequence[Address]) -> list[Decided]:
        return list(await asyncio.gather(*(self.registers.committed(address) for address in addresses)))

    async def _learn(self, addresses: Sequence[Address], values: Sequence[Decided]) -> None:
        """Have here what is about to be told: who has seen it must not see less afterwards."""
        for address, value in zip(addresses, values, strict=True):
            await self.registers.show(address, value)

    def _vector(self) -> dict[str, int]:
        return self._writes.group_commit.progress.vector
