"""Clients of transactions: each reads and appends to several lists at once, and records it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any

from atoll.client.transport import Request
from atoll.errors import Indefinite, RegionUnreachable
from atoll.histories.history import Client as Log

from ..cluster import REGIONS
from .clients import Outcome, Pace, Work, outcome_of

COLLECTION = "roll"
_TIMEOUT_S = 3.0
_MOST_LISTS = 3
_ATTEMPTS = 3
_REPEATED = 0.5
"""So often a transaction that is not answered with success is repeated, wherever that may be."""


class Client:
    """Snapshots, blind appends, and appends that rest on what was read: a check holds it until the commit."""

    def __init__(self, region: str, log: Log, work: Work, random: Random) -> None:
        """`region`: where it is, unless that fails."""
        self._region = region
        self._pace = Pace(region, random)
        self._log = log
        self._work = work
        self._random = random

    async def run(self) -> None:
        while self._work.left > 0:
            self._work.left -= 1
            keys, dice = self._drawn(), self._random.random()
            if dice < 0.35:
                done = await self.read(keys)
            elif dice < 0.6:
                done = await self._append(keys, {})
            else:
                done = await self._append_after_read(keys)
            self._region = await self._pace.region_after(done=done)

    def _drawn(self) -> list[str]:
        most = min(_MOST_LISTS, len(self._work.keys))
        return self._random.sample(list(self._work.keys), self._random.randint(1, most))

    async def read(self, keys: Sequence[str]) -> bool:
        """One snapshot of some lists; whether it was answered."""
        self._log.invoke("txn", value=[["r", key, None] for key in keys])
        outcome, found = await self._attempt({"reads": [_of(key) for key in keys]})
        self._work.outcomes["ok" if outcome == "ok" else "fail"] += 1
        if outcome != "ok":
            self._log.fail()  # it changes nothing
            return False
        self._log.ok([["r", key, each["items"]] for key, each in zip(keys, found, strict=True)])
        return True

    async def _append_after_read(self, keys: Sequence[str]) -> bool:
        """What is read first, in a request of its own, is a part of the transaction by the checks of its versions."""
        outcome, found = await self._attempt({"reads": [_of(key) for key in keys]})
        if outcome != "ok":
            return False
        return await self._append(self._drawn(), dict(zip(keys, found, strict=True)))

    async def _append(self, keys: Sequence[str], read: dict[str, dict[str, Any]]) -> bool:
        values = {key: next(self._work.values) for key in keys}
        steps = [["r", key, each["items"]] for key, each in read.items()]
        steps += [["append", key, value] for key, value in values.items()]
        self._log.invoke("txn", value=[[f, key, None if f == "r" else value] for f, key, value in steps])
        patches = [
            {"patch": {**_of(key), "operators": {"$add": {"items": [value]}}}}
            for key, value in values.items()
        ]
        checks = [{**_of(key), "version": each["version"]} for key, each in read.items()]
        outcome = await self._changed({"checks": checks, "writes": patches})
        if outcome == "ok":
            self._log.ok(steps)
        elif outcome == "info":
            self._log.info()
        else:
            self._log.fail()
        self._work.outcomes[outcome] += 1
        return outcome in ("ok", "refused")

    # -- attempts --------------------------------------------------------------------------------------

    async def _changed(self, body: dict[str, Any]) -> Outcome:
        """Send it, and repeat it where it may be, until that ends."""
        headers = {"idempotency-key": f"txn-{self._random.getrandbits(64):x}", "prefer": "return=minimal"}
        doubt = False
        for left in reversed(range(_ATTEMPTS)):
            outcome, _ = await self._attempt(body, headers)
            doubt = doubt or outcome == "info"
            if outcome in ("ok", "refused") or not left or self._random.random() > _REPEATED:
                break
            self._region = self._random.choice(REGIONS)
        # A refusal speaks of the last attempt alone.
        return "info" if doubt and outcome != "ok" else outcome

    async def _attempt(
        self, body: Mapping[str, Any], headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[Outcome, list[dict[str, Any]]]:
        sent = {**headers, "content-type": "application/json"}
        request = Request(
            self._region, "POST", "/v1/transactions", "", sent, json.dumps(body).encode(), _TIMEOUT_S
        )
        try:
            answer = await self._work.transport.send(request)
        except RegionUnreachable:
            return "fail", []
        except Indefinite:
            return "info", []
        outcome = outcome_of(answer, self._work)
        if outcome != "ok":
            return outcome, []
        read = json.loads(answer.body)["read"]
        return outcome, [
            {"items": each["value"]["items"] if each["value"] else [], "version": each["version"] or None}
            for each in read
        ]


def _of(key: str) -> dict[str, str]:
    return {"collection": COLLECTION, "key": key}
