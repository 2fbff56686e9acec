"""What became of transactions: asks for it, waits for it, and decides it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from atoll.consensus.acceptor import NEVER, Inspect
from atoll.consensus.acceptor_set import Counted
from atoll.consensus.decided import Intent
from atoll.consensus.outcome import Outcome, aborted, decoded, encoded, first_ballot, register_of
from atoll.consensus.round import Round
from atoll.errors import AtollError, Indefinite, RegionUnreachable, Unavailable
from atoll.region.ballot_box import BallotBox
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.region.write_once import WriteOnce
from atoll.replication.messages import GoesOnCall, GoesOnReply, SettleCall, SettleReply

_PATIENCE_S = 0.6
"""So often, who waits for a transaction asks whether anybody still coordinates it."""
_ANSWERS_S = 1.2
"""A region that has not answered by then coordinates nothing."""
_LONGEST_S = 10.0
"""A transaction whose intent stands in the way for longer is aborted, whatever its coordinator says."""
_UNSURE_S = 2.0
"""The same where its region does not know whether one of its nodes still coordinates it."""
_BACK_OFF_S = 0.02
_MOST_TRIES = 12
_MOST_KNOWN = 10_000


class Outcomes:
    """Of one node."""

    def __init__(
        self,
        site: Site,
        box: BallotBox,
        *,
        counted: Callable[[], Counted],
        reaches: Callable[[str], bool],
        proposer: str,
    ) -> None:
        """`reaches` tells whether there is a link to a region; `proposer` is this process as ballots name it."""
        self._site = site
        self._box = box
        self._counted = counted
        self.running: set[str] = set()
        """Transactions that this node coordinates."""
        self._reaches = reaches
        self._proposer = proposer
        self._registers = WriteOnce(site, box, proposer)
        self._waiting: dict[str, list[asyncio.Future[Outcome]]] = {}
        """Transaction → who waits for it here."""
        self._aborted: OrderedDict[str, None] = OrderedDict()
        """The latest that are known here to be aborted."""
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    def tell(self, transaction: str, outcome: Outcome) -> None:
        """It has been decided."""
        if not outcome.committed:
            self._aborted[transaction] = None
            if len(self._aborted) > _MOST_KNOWN:
                self._aborted.popitem(last=False)
        for waiting in self._waiting.get(transaction, ()):
            if not waiting.done():
                waiting.set_result(outcome)

    def aborted(self, transaction: str) -> bool:
        """Whether it is known to be: an intent of it would stand in the way for nothing."""
        return transaction in self._aborted

    async def settle(self, intent: Intent, wounded: Awaitable[object]) -> tuple[Outcome, bool]:
        """What became of a transaction that stands in the way; and whether its coordinator said so.

        `wounded` is done once an older transaction waits for it. Who is older does not wait: so no two wait for each
        other, and the oldest goes on. Raises Unavailable.
        """
        if intent.region == self._site.name or self._reaches(intent.region):
            told = await self._wait(intent, wounded)
            if told is not None:
                return told, True
        try:
            outcome = await self.decide(intent.transaction, aborted(intent.participants))
        except Indefinite as error:
            raise Unavailable(error.message, region=self._site.name) from None
        self.tell(intent.transaction, outcome)
        if not outcome.committed and intent.region != self._site.name:
            self._tasks.spawn(self._inform(intent, outcome), f"tells {intent.region} what was aborted")
        return outcome, False

    async def _inform(self, intent: Intent, outcome: Outcome) -> None:
        with contextlib.suppress(AtollError):
            await self._site.ask(intent.region, SettleCall(intent.transaction, outcome), SettleReply)

    async def wait(self, transaction: str) -> Outcome:
        """Until its outcome is told."""
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(transaction, [])
        waiting.append(told)
        try:
            return await told
        finally:
            waiting.remove(told)
            if not waiting:
                self._waiting.pop(transaction, None)

    async def _wait(self, intent: Intent, wounded: Awaitable[object]) -> Outcome | None:
        """None once it has to be aborted."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        until_s = begun_s + _LONGEST_S
        told = asyncio.ensure_future(self.wait(intent.transaction))
        older = asyncio.ensure_future(wounded)
        asked: asyncio.Future[GoesOnReply] | None = None
        try:
            while True:
                waits: set[asyncio.Future[Any]] = {told, older} if asked is None else {told, older, asked}
                patience_s = _PATIENCE_S if asked is None else None
                await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if told.done():
                    return told.result()
                if older.done() or loop.time() > until_s:
                    return None
                if asked is None:
                    asked = asyncio.ensure_future(self._goes_on(intent))
                elif not asked.result().may:
                    return None
                else:
                    until_s = until_s if asked.result().sure else min(until_s, begun_s + _UNSURE_S)
                    asked = None
        finally:
            for each in (told, older, asked):
                if each is not None:
                    each.cancel()

    async def _goes_on(self, intent: Intent) -> GoesOnReply:
        """Whether the transaction's coordinator is there, and at it."""
        if intent.region == self._site.name:
            return self.goes_on(intent.transaction)
        try:
            async with asyncio.timeout(_ANSWERS_S):
                return await self._site.ask(intent.region, GoesOnCall(intent.transaction), GoesOnReply)
        except (AtollError, TimeoutError):
            return GoesOnReply(may=False)

    def goes_on(self, transaction: str) -> GoesOnReply:
        """Whether a transaction of this region may still commit."""
        if transaction in self.running:
            return GoesOnReply(may=True)
        return GoesOnReply(may=not self._site.options.alone, sure=self._site.options.alone)

    async def known(self, transaction: str) -> tuple[Outcome | None, bool]:
        """The outcome, and whether that is certain. None where none was decided when this was asked."""
        found = await self._box.ask(Inspect(register_of(transaction)), self._counted(), until="decided")
        if found.decided and found.value:
            return decoded(found.value), True
        return None, found.outcome == "won" and found.accepted == NEVER

    async def decide(self, transaction: str, wanted: Outcome, *, first: bool = False) -> Outcome:
        """The outcome: `wanted`, unless another one was decided before.

        `first` is for the coordinator's one first attempt, which needs one round trip. Raises RegionUnreachable if
        nothing was sent, else Indefinite.
        """
        register, sent, tries = register_of(transaction), False, 0
        ballot, text = first_ballot(self._proposer), encoded(wanted)
        value: bytes | None
        while True:
            counted = self._counted()
            if first:
                found = await self._registers.accepted(register, ballot, text, counted)
                value = text
            else:
                found, value = await self._registers.attempt(register, text, counted)
            if value is not None:
                sent = True
                if found.outcome == "won":
                    return decoded(value)
            first, tries = False, tries + 1
            if tries > _MOST_TRIES or (found.outcome == "unreachable" and tries > 2):
                raise self._lost(transaction, found, sent=sent)
            if counted == self._counted():
                await asyncio.sleep(min(_BACK_OFF_S * 2**tries, 0.5) * (0.5 + self._site.random.random()))

    def _lost(self, transaction: str, found: Round, *, sent: bool) -> RegionUnreachable | Indefinite:
        silent = ", ".join(sorted(found.silent - {self._site.name})) or self._site.name
        if sent:
            return Indefinite(
                f"whether transaction {transaction} is committed is not known: {silent} did not answer; repeat it with"
                " the same idempotency key"
            )
        return RegionUnreachable(
            f"a transaction needs a majority of {len(found.voters)} regions, and {silent} cannot be asked from"
            f" {self._site.name}; try again, or in another region",
            region=self._site.name,
        )
