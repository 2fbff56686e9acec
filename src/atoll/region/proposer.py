"""Proposes changes of registers, and has what is decided journaled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from atoll.causality.clock import HybridLogicalClock, pack
from atoll.causality.types import Ballot
from atoll.commit import idempotency
from atoll.commit.checks import check_document
from atoll.commit.identity import Address
from atoll.consensus.acceptor import NEVER, Accept, Prepare, Vote
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.claims import check_claims
from atoll.consensus.decided import (
    REMEMBERED_MS,
    Decided,
    Made,
    Memory,
    Placed,
    changed,
    decoded,
    encoded,
    forgetting,
    initial,
    resolved,
    wanted,
)
from atoll.consensus.folding import folded
from atoll.consensus.round import Round, heard
from atoll.documents.mutation import Receipt
from atoll.documents.rules import Rules
from atoll.errors import (
    AtollError,
    Indefinite,
    Overloaded,
    RegionUnreachable,
    Unavailable,
    error_classes,
)
from atoll.region.ballot_box import BallotBox
from atoll.region.forwarding import Forwarding
from atoll.region.learning import (
    Change,
    Deciding,
    Learning,
    OwnVotes,
    Placing,
    Settling,
    Step,
    Unasked,
    together,
)
from atoll.region.local_writes import LocalWrites
from atoll.region.outcomes import Outcomes
from atoll.region.read_leases import ReadLeases
from atoll.region.register import Held, Register
from atoll.region.site import Site
from atoll.region.statistics import Statistics
from atoll.region.tasks import Tasks
from atoll.region.voting import Voting
from atoll.replication.link import Link
from atoll.store.port import Row, Store

_AT_ONCE = 64
"""Changes of one register that become one proposal."""
_KEPT = 10_000
_KEPT_BYTES = 64 << 20
"""Of so many registers, and of so many bytes of documents, a node knows the value and may propose at once."""
_MOST_WAITING = 10_000
_OLDEST_S = REMEMBERED_MS / 2000
"""A change that has waited for longer is not proposed: registers may no longer know that another region made it."""
_BACK_OFF_S = 0.02


class Moved(Exception):
    """Another region proposes the register's changes by now. Never leaves the region."""


def _too_old(change: Change) -> bool:
    return asyncio.get_running_loop().time() - change.since_s > _OLDEST_S


def _forgotten(address: Address) -> Indefinite:
    return Indefinite(
        f"{'/'.join(address)} no longer remembers whether this change was made: read the document before you repeat it"
    )


def _without_movable(changes: Sequence[Change]) -> list[Change]:
    """Two regions that propose one register hinder each other: what may be forwarded is."""
    for change in changes:
        if change.movable:
            change.fail(Moved("another region proposes it"))
    return [change for change in changes if not change.movable]


class Proposer:
    """Of one node. `close` it."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        store: Store,
        clock: HybridLogicalClock,
        links: Mapping[str, Link],
        *,
        writes: LocalWrites,
        voting: Voting,
        statistics: Statistics,
    ) -> None:
        self.rules = {name: each for name, each in rules.items() if each.schema.policy.by_quorum}
        """Of the collections whose documents are registers."""
        self.leases = ReadLeases(self.rules if site.options.read_leases else {})
        self.box = BallotBox(site, voting)
        self.forwarding = Forwarding(site)
        self._site = site
        self._store = store
        self._clock = clock
        self._links = links
        self.writes = writes
        self.voting = voting
        self._statistics = statistics
        self._name = f"{site.name}/{site.random.getrandbits(64):x}"
        self.outcomes = Outcomes(
            site, self.box, counted=self.counted, reaches=self.reaches, proposer=self._name
        )
        self._last = 0
        """The number of the last ballot that this node has begun."""
        self._registers: OrderedDict[Address, Register] = OrderedDict()
        """The one that was asked for last comes last."""
        self.over: dict[str, None] = {}
        """Registers that this node has decided to hold nothing, in order: see `Forgetting`."""
        self._held_bytes = 0
        self._votes: OwnVotes | None = None
        """The latest: it may have begun."""
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()
        await self.outcomes.close()
        await self.forwarding.close()
        await self.box.close()

    def of(self, address: Address) -> Register:
        register = self._registers.get(address)
        if register is None:
            self._registers[address] = register = Register(address)
            self._make_room()
        else:
            self._registers.move_to_end(address)
        return register

    def _hold(self, register: Register, held: Held | None) -> None:
        self._held_bytes += (0 if held is None else held.size_bytes) - register.size_bytes
        register.held = held
        self._make_room()

    def _make_room(self) -> None:
        while len(self._registers) > _KEPT or self._held_bytes > _KEPT_BYTES:
            oldest = next(iter(self._registers.values()))
            if oldest.running:
                return  # soon it is the newest, or idle
            self._held_bytes -= oldest.size_bytes
            del self._registers[oldest.address]

    def propose(self, register: Register, change: Change) -> None:
        """Have it decided soon. Raises Overloaded."""
        if len(register.waiting) >= _MOST_WAITING:
            raise Overloaded(
                f"{len(register.waiting)} changes of {register.name} are waiting; send fewer at once"
            )
        register.waiting.append(change)
        if register.older is not None and isinstance(change, Placing):
            register.older(change)
        if not register.running:
            register.running = True
            self._tasks.spawn(self._drain(register), f"proposes changes of {register.name}")

    async def _drain(self, register: Register) -> None:
        changes: list[Change] = []
        try:
            while register.waiting:
                changes = together(register.waiting, _AT_ONCE)
                try:
                    await self._decide(register, changes)
                except AtollError as error:
                    for change in changes:
                        change.fail(error)
        finally:
            register.running = False
            for change in (*changes, *register.waiting):
                if not change.done.done() and change.value is None:
                    change.fail(Indefinite("this region stopped while it proposed the change"))

    async def _decide(self, register: Register, changes: Sequence[Change]) -> None:
        """Have the changes decided, and answered once they are journaled. Raises Unavailable, what the store raises."""
        loop, options = asyncio.get_running_loop(), self._site.options
        since, sent, tries = loop.time(), False, 0
        while True:
            counted = self.counted()
            if not sent and not self.reaches_majority():
                found, before = Round(counted.voters, silent=frozenset(counted.voters)), None
            else:
                found, ballot, before = await self._prepared(register, counted)
            if before is not None:
                value, told = await self._settled(register, before, changes)
                row = await self._store.get(*register.address)
                steps = [] if value is before or told else [Step(Unasked(None, b""), value)]
                rules, unfolded = self.rules[register.address[0]], value
                value = folded(rules, register.address[1], unfolded, row, self._clock.now)
                if value is not unfolded:  # what the audit names is in a journal, too
                    steps += [Step(Unasked(None, b""), each) for each in (unfolded, value)]
                steps += self._steps(register.address, value, changes, row)
                after, upcoming, sent = steps[-1].value, Ballot(ballot.number + 1, self._name), True
                self._hold(register, None)
                for step in steps:
                    step.change.sent |= step.error is None
                self._last = max(self._last, upcoming.number)
                self._statistics.proposals += 1
                lease_ms = self.leases.lease_ms(register.address, after, since_s := loop.time())
                self.leases.proposed(register.address, after, lease_ms)
                accept = Accept(register.name, ballot, encoded(after), upcoming, lease_ms)
                found = await self._accepted(register, accept, counted, steps)
                if found.outcome == "won":
                    kept = forgetting(after, {change.id for change in changes if change.local})
                    self._hold(register, Held(upcoming, kept, counted))
                    self.leases.decided(register.address, after, lease_ms, since_s)
                    register.note(changes)
                    if after.over and len(self.over) < _KEPT:
                        self.over[register.name] = None
                    writes = sum(change.write is not None for change in changes)
                    self._statistics.changes_combined += max(0, writes - 1)
                    return
            self._hold(register, None)
            register.seen, register.mine = max(register.seen, found.promised), False
            self._statistics.proposals_lost += found.outcome == "refused"
            if found.outcome == "refused" and self.reaches(found.promised.region):
                changes = _without_movable(changes)
                if not changes:
                    return
            late = loop.time() - since > (
                options.peer_timeout_s if found.outcome == "refused" else options.max_wait_s
            )
            if late:
                raise self._lost(register, found)
            if self.counted() == counted or tries > 2:
                tries += 1
                most = min(_BACK_OFF_S * 2 ** min(tries, 10), 0.5)
                await asyncio.sleep(most * (0.5 + self._site.random.random()))
            tries += 1

    async def _settled(
        self, register: Register, before: Decided, changes: Sequence[Change]
    ) -> tuple[Decided, bool]:
        """The register without the intent of a transaction that is over, and whether its coordinator journals it.

        Raises Unavailable.
        """
        intent = before.intent
        if intent is None:
            return before, False
        others: list[Change] = []
        for change in changes:
            if not isinstance(change, Settling):
                others.append(change)
            elif change.transaction == intent.transaction:
                return resolved(register.name, before, change.outcome), change.journaled
        first = others[0] if others else None
        if first is None or (isinstance(first, Placing) and first.intent.transaction == intent.transaction):
            return before, False
        wounded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def older(change: Change) -> None:
            if isinstance(change, Placing) and change.intent.rank < intent.rank and not wounded.done():
                wounded.set_result(None)

        for change in (*others, *register.waiting):
            older(change)
        register.older = older
        try:
            outcome, told = await self.outcomes.settle(intent, wounded)
        finally:
            register.older = None
        return resolved(register.name, before, outcome), told

    async def _prepared(self, register: Register, counted: Counted) -> tuple[Round, Ballot, Decided | None]:
        """The ballot that a majority has promised, and the value to change; None where it was not promised."""
        if register.held is not None and register.held.counted == counted:
            return Round(counted.voters), register.held.ballot, register.held.value
        number = max(pack(self._site.now_ms()), self._last + 1, register.seen.number + 1)
        self._last = number
        ballot = Ballot(number, self._name)
        found = await self.box.ask(Prepare(register.name, ballot), counted)
        value = await self.value_of(register, found) if found.outcome == "won" else None
        return found, ballot, value

    async def _accepted(
        self, register: Register, accept: Accept, counted: Counted, steps: list[Step]
    ) -> Round:
        """The round; where it is won, the changes are answered, or will be once they are journaled."""
        own = self._site.name
        if self.voting.votes and own in counted.voters:
            found = await self.box.ask(accept, counted, but=own)
            decided = found.outcome == "won"
            if not (decided or found.short_of_one):
                return found
            entries = [step for step in steps if step.change.journals]
            work = Deciding(register.address, entries, self.writes.gates, accept, decided=decided)
            with contextlib.suppress(AtollError):  # then it may be decided without this region
                self._vote(counted, work)
                receipts = await work.done
                if work.decided:
                    self._tell(entries, receipts)
                    self._answered(steps)
                    return found if decided else heard(found, own, Vote(True, accept.next, accept.ballot))
        found = await self.box.ask(accept, counted)
        if found.outcome == "won":
            for step in steps:
                step.change.value = steps[-1].value
            if entries := self._answered(steps):
                self._tasks.spawn(self._answer(register, entries), f"journals {register.name}")
        return found

    def _vote(self, counted: Counted, deciding: Deciding) -> None:
        """Have this region vote, too; in one work with other proposals that wait for that. Raises Overloaded."""
        if self._votes is None or not self._votes.join(counted, deciding):
            votes = OwnVotes(self.voting, counted, deciding)
            self.writes.group_commit.submit(votes)
            self._votes = votes

    @staticmethod
    def _answered(steps: list[Step]) -> list[Step]:
        """Answer those of which nothing has to be journaled; the others."""
        return [step for step in steps if not step.change.answered(step)]

    async def value_of(self, register: Register, found: Round) -> Decided:
        if found.accepted != NEVER:
            return decoded(found.value)
        row = await self._store.get(*register.address)
        return initial(self.rules[register.address[0]], row)

    def _steps(
        self, address: Address, before: Decided, changes: Sequence[Change], row: Row | None
    ) -> list[Step]:
        """What each comes to, on top of those before it. The last one's value remembers all of them."""
        steps: list[Step] = []
        memory = Memory(before)
        for change in changes:
            steps.append(step := self._step(address, before, change, row, memory))
            before = step.value
        steps[-1].value = memory.kept_in(before)
        return steps

    def _step(
        self, address: Address, before: Decided, change: Change, row: Row | None, memory: Memory
    ) -> Step:
        if isinstance(change, Placing):
            return self._placing(address, before, change, row, memory)
        write = change.write
        if write is None:
            return Step(change, before)
        fingerprint, doubted = idempotency.fingerprint(write), change.doubted
        made = memory.find(change.id)
        if made is not None:
            if made.fingerprint != fingerprint:
                return Step(change, before, error=idempotency.reused(write))
            if made.refused is None:
                return Step(change, before, replayed=True)
            type, message = made.refused
            return Step(change, before, error=error_classes().get(type, AtollError)(message))
        if _too_old(change) or (doubted is not None and not memory.since(doubted)):
            return Step(change, before, error=_forgotten(address))
        rules, stamp = self.rules[address[0]], self._clock.now()
        try:
            after = changed(rules, before, write.mutations[0], stamp, row)
            check_claims(rules, address[1], before.value, after.value)
            check_document(address, before.value, after.value, self._site.options.document_bytes)
        except AtollError as error:
            if doubted is not None:
                refused = (error.type, error.message)
                memory.add(Made(change.id, fingerprint, before.revision, stamp, True, refused))
            return Step(change, before, error=error)
        if after is before and doubted is None:
            return Step(change, before)
        made_at = max(stamp, after.stamp)
        memory.add(Made(change.id, fingerprint, after.revision, made_at, doubted is not None))
        return Step(change, after, made=True)

    def _placing(
        self, address: Address, before: Decided, change: Placing, row: Row | None, memory: Memory
    ) -> Step:
        if self.outcomes.aborted(change.intent.transaction):
            return Step(change, before, error=Unavailable("an older transaction needs the document"))
        bare, intent = msgspec.structs.replace(before, made=(), intent=None), before.intent
        if intent is not None:
            return Step(change, before, placed=Placed(bare, intent.after))
        rules, made = self.rules[address[0]], None
        if change.id:
            found = memory.find(change.id)
            if found is not None:
                return Step(change, before, placed=Placed(bare, made=found.fingerprint))
        try:
            after = wanted(rules, bare, change.mutations, self._clock.now(), row)
            if after is not None:
                check_claims(rules, address[1], bare.value, after.value, change.intent.participants)
                check_document(address, before.value, after.value, self._site.options.document_bytes)
        except AtollError as error:
            return Step(change, before, error=error)
        if after is not None and change.id:
            made = Made(change.id, change.fingerprint, after.revision, after.stamp)
        held = msgspec.structs.replace(change.intent, after=after, made=made)
        return Step(change, msgspec.structs.replace(before, intent=held), placed=Placed(bare, after))

    async def _answer(self, register: Register, steps: list[Step]) -> None:
        try:
            receipts = await self.learn(register, steps)
        except AtollError as error:
            for step in steps:
                step.change.fail(error)
        else:
            self._tell(steps, receipts)

    @staticmethod
    def _tell(steps: list[Step], receipts: list[Receipt | AtollError]) -> None:
        for step, receipt in zip(steps, receipts, strict=True):
            if isinstance(receipt, AtollError):
                step.change.refuse(receipt)
            elif not step.change.done.done():
                step.change.done.set_result(receipt)

    async def learn(self, register: Register, steps: Sequence[Step]) -> list[Receipt | AtollError]:
        work = Learning(register.address, steps, self.writes.gates)
        self.writes.group_commit.submit(work)
        return await work.done

    def reaches(self, region: str) -> bool:
        """Whether it is a peer that this region has a link to."""
        link = self._links.get(region)
        return link is not None and link.status.connected

    def reaches_majority(self) -> bool:
        """Whether links and witnesses say so.

        Else no proposal is sent: once it is, nobody can say that it will not be decided.
        """
        own, members, reached = self._site.name, self.voting.members, self.voting.reached
        asked = sum(region == own or region in reached or self.reaches(region) for region in members)
        return 2 * asked > len(members)

    def counted(self) -> Counted:
        """The acceptors that decide."""
        return self.voting.counted()

    def no_majority(self, found: Round) -> RegionUnreachable:
        silent = ", ".join(sorted(found.silent - {self._site.name})) or self._site.name
        return RegionUnreachable(
            f"a strong document needs a majority of {len(found.voters)} regions, and {silent} cannot be asked from "
            f"{self._site.name}; try again, or in another region",
            region=self._site.name,
        )

    def _lost(self, register: Register, found: Round) -> AtollError:
        if found.outcome == "unreachable":
            return self.no_majority(found)
        return Unavailable(
            f"{register.name} is changed by others all the time; try again", region=self._site.name
        )
