"""Finishes transactions whose coordinator is gone, and drops outcomes that nobody will ask for."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from atoll.commit.identity import address_of
from atoll.consensus import acceptor, decided
from atoll.consensus.outcome import KEPT_MS, OUTCOMES, aborted, begun_ms, decoded
from atoll.errors import AtollError
from atoll.region.concluding import TRANSACTIONS
from atoll.region.learning import Unasked
from atoll.region.proposer import Proposer
from atoll.region.site import Site
from atoll.region.transactions import Transactions
from atoll.region.voting import REGISTERS
from atoll.replication.messages import RelieveCall, RelieveReply, SettleCall
from atoll.store.port import Store

_EVERY_S: Final = 5.0
_GONE_MS: Final = 20_000
"""A transaction that began so long ago has no coordinator any more: it gives up earlier."""
_AT_ONCE: Final = 100


class Unfinished:
    """Of one node. Nodes and regions may finish the same transaction: all of it is idempotent."""

    def __init__(self, site: Site, store: Store, proposer: Proposer, transactions: Transactions) -> None:
        self._registers = transactions.registers
        self._site = site
        self._store = store
        self._proposer = proposer
        self._transactions = transactions
        self._settled: set[str] = set()
        """Aborted transactions of which no register here holds an intent: their outcomes are kept, and that is all."""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_EVERY_S * (0.5 + self._site.random.random()))
            try:
                await self.sweep()
            except (AtollError, msgspec.DecodeError):
                continue  # a majority or the store cannot be asked at present

    async def relieve(self, call: RelieveCall) -> RelieveReply:
        """A witness has kept what it should not have to. Raises AtollError, msgspec.DecodeError."""
        for name in call.registers:
            register = self._proposer.of(address_of(name))
            if register.address[0] in self._proposer.rules:
                self._proposer.propose(register, Unasked(None, b""))
        for transaction, accepted in call.transactions:
            if self._abandoned(transaction):
                await self._finish(transaction, accepted)
        return RelieveReply()

    async def sweep(self) -> None:
        """Once over all. Raises AtollError, msgspec.DecodeError."""
        after: str | None = None
        while page := await self._store.states(TRANSACTIONS, after=after, limit=_AT_ONCE):
            for transaction, kept in page:
                if self._abandoned(transaction):
                    await self._transactions.conclude(transaction, kept)
            after = page[-1][0]
        after = OUTCOMES
        while page := await self._store.states(REGISTERS, after=after, limit=_AT_ONCE):
            for name, state in page:
                if not name.startswith(OUTCOMES):
                    return
                transaction = name.removeprefix(OUTCOMES)
                if self._abandoned(transaction):
                    await self._finish(transaction, acceptor.decoded(state).value)
            after = page[-1][0]

    async def _finish(self, transaction: str, accepted: bytes) -> None:
        kept, outcome = self._site.now_ms() - begun_ms(transaction) <= KEPT_MS, None
        if kept and transaction in self._settled:
            return
        if accepted:
            participants = tuple(decoded(accepted).revisions)
            outcomes = self._proposer.outcomes
            outcome = (await outcomes.known(transaction))[0]
            if outcome is None:
                outcome = await outcomes.decide(transaction, aborted(participants))
            kept = kept and not outcome.committed
            if kept:
                # A proposal takes a register from whoever changes it. A majority has accepted what is decided: so one
                # of those that keep the outcome finds the intent in its own acceptor.
                participants = tuple([name for name in participants if await self._holds(name, transaction)])
            await self._registers.settle(SettleCall(transaction, outcome, participants), journaled=False)
            if kept:
                self._settled.add(transaction)
        if outcome is not None and outcome.committed and outcome.home:
            left = await self._store.state(TRANSACTIONS, transaction)
            kept = outcome.home != self._site.name or left is not None
        if not kept:
            self._settled.discard(transaction)
            call = SettleCall(transaction, outcome or aborted(()), over=True)
            await asyncio.gather(
                *(self._transactions.tell(region, call) for region in self._proposer.counted().voters)
            )

    async def _holds(self, register: str, transaction: str) -> bool:
        """Whether this region's acceptor has accepted the transaction's intent last."""
        state = acceptor.decoded(await self._store.state(REGISTERS, register))
        intent = decided.decoded(state.value).intent
        return intent is not None and intent.transaction == transaction

    def _abandoned(self, transaction: str) -> bool:
        if transaction in self._transactions.running:
            return False
        return self._site.now_ms() - begun_ms(transaction) > _GONE_MS
