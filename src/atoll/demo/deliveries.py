"""Deliveries: sagas that take stock here and money elsewhere. Their region is killed amid some."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atoll.demo.http_client import HttpClient, Unanswered
from atoll.demo.ledger import Ledger
from atoll.demo.nemesis import VICTIM

SKU = "hamper"
PRICE_CENTS = 2500
_EVERY_S = 0.8
"""In each region."""
_STARTS_UNTIL = 0.9
"""Part of the opening hours."""
_AFFORDED = 0.7
"""The money in a wallet is enough for this part of what is bought with it."""
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Deliveries:
    """`fill`, then `run`, then `conclude`."""

    client: HttpClient
    ledger: Ledger
    regions: Sequence[str]
    alive: Callable[[str], bool]

    @staticmethod
    def count(seconds: float) -> int:
        """How many are started in each region, at most."""
        return int(seconds * _STARTS_UNTIL / _EVERY_S)

    async def fill(self, seconds: float) -> None:
        """Open a wallet in each region. Raises Unanswered."""
        for region in self.regions:
            cents = int(self.count(seconds) * _AFFORDED) * PRICE_CENTS
            await self.client.write(
                region, "PUT", f"/v1/wallet/{region}", {"cents": cents}, idempotency_key=f"wallet-{region}"
            )
            self.ledger.wallets[region] = cents

    async def run(self, seconds: float) -> None:
        opening = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(self.count(seconds)):
                await asyncio.sleep(max(0.0, opening + number * _EVERY_S - time.monotonic()))
                if not self.alive(VICTIM) and not self.ledger.killed_ms:
                    self.ledger.killed_ms = int(time.time() * 1000)
                for at, region in enumerate(self.regions):
                    payer = self.regions[(at + 1) % len(self.regions)]
                    if self.alive(region):
                        group.create_task(self._start(f"{region}-{number}", region, payer))

    async def conclude(self, within_s: float) -> None:
        """Wait until none is under way any more, as far as one region knows."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(Unanswered):
                states = ("running", "waiting", "compensating")
                paths = [f"/v1/sagas?saga=delivery&status={status}&limit=1" for status in states]
                answers = [await self.client.read(region, path) for region in self.regions for path in paths]
                if not any(answer.body["items"] for answer in answers):
                    return
            await asyncio.sleep(_PAUSE_S)

    async def _start(self, key: str, region: str, payer: str) -> None:
        body = {"key": key, "fields": {"sku": SKU, "wallet": payer, "cents": PRICE_CENTS}}
        with contextlib.suppress(Unanswered):  # the ledger has it
            answer = await self.client.write(
                region, "POST", "/v1/sagas/delivery", body, idempotency_key=f"delivery-{key}"
            )
            if answer.status == 200:
                self.ledger.deliveries[key] = payer
