"""Clients of single documents: each does one operation after the other at its region, and records it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from atoll.client.aiohttp_transport import AiohttpTransport
from atoll.client.transport import Request, Response
from atoll.errors import Indefinite, RegionUnreachable
from atoll.histories.history import Client as Log

from ..cluster import REGIONS

_TIMEOUT_S = 1.5
"""Less than the longest faults: some answers are never heard."""
_ATTEMPTS = 3
_REPEATED = 0.5
"""So often an operation that is not answered with success is repeated, wherever that may be."""
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.6
"""At most, after an operation that did not happen. It doubles: an outage does not take up the history."""
_AWAY = 0.7
"""So often the next operation then goes to any region."""

Outcome = Literal["ok", "refused", "fail", "info"]
"""`refused`: the document was not what the operation wanted. `fail`: it did not happen for another reason."""


@dataclass
class Work:
    """What the clients of one history share."""

    transport: AiohttpTransport
    keys: Sequence[str]
    left: int
    """Operations that are still to begin."""
    read_query: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    """Answers that nobody should get."""
    values: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Each is written once."""


class Pace:
    """What a client does after an operation: goes on at once, or elsewhere after a while."""

    def __init__(self, home: str, random: Random) -> None:
        self._home = home
        self._random = random
        self._pause_s = _PAUSE_S

    async def region_after(self, *, done: bool) -> str:
        """Where the next operation goes."""
        if done:
            self._pause_s = _PAUSE_S
            return self._home
        region = self._random.choice(REGIONS) if self._random.random() < _AWAY else self._home
        await asyncio.sleep(self._random.uniform(0, self._pause_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return region


def outcome_of(answer: Response, work: Work) -> Outcome:
    """What an answer says of the operation."""
    match answer.status:
        case 200:
            return "ok"
        case 404 | 412:
            return "refused"
        case 503 | 504 | 507:
            return "fail" if json.loads(answer.body)["definite"] else "info"
    work.odd[f"{answer.status} {answer.body[:200]!r}"] += 1
    return "info"


class Client:
    """Writes documents of the collection `account` by their key; its value is their balance."""

    def __init__(self, region: str, log: Log, work: Work, random: Random) -> None:
        """`region`: where it is, unless that fails."""
        self._region = region
        self._pace = Pace(region, random)
        self._log = log
        self._work = work
        self._random = random
        self._seen: dict[str, tuple[Any, str]] = {}
        """key → value and version that it had when it was last seen."""

    async def run(self) -> None:
        while self._work.left > 0:
            self._work.left -= 1
            key, dice = self._random.choice(self._work.keys), self._random.random()
            if dice < 0.45:
                done = await self.read(key)
            elif dice < 0.68:
                done = await self._write(key)
            elif dice < 0.96:
                done = await self._compare_and_set(key)
            else:
                done = await self._delete(key)
            self._region = await self._pace.region_after(done=done)

    # -- operations ------------------------------------------------------------------------------------

    async def read(self, key: str) -> bool:
        """Whether it was answered."""
        self._log.invoke("read", key)
        outcome, answer = await self._attempt(self._region, "GET", key, query=self._work.read_query)
        self._work.outcomes["fail" if outcome == "info" else outcome] += 1
        if outcome == "ok":
            self._log.ok(self._look(key, answer))
        elif outcome == "refused":  # there is none
            self._log.ok(None)
        else:
            self._log.fail()  # a read changes nothing
        return outcome in ("ok", "refused")

    async def _write(self, key: str) -> bool:
        value = next(self._work.values)
        self._log.invoke("write", key, value)
        return await self._changed("PUT", key, value)

    async def _compare_and_set(self, key: str) -> bool:
        value = next(self._work.values)
        old, version = self._seen.get(key, (None, ""))
        self._log.invoke("cas", key, [old, value])
        condition = {"if-match": version} if version else {"if-none-match": "*"}
        return await self._changed("PUT", key, value, condition)

    async def _delete(self, key: str) -> bool:
        self._log.invoke("write", key, None)
        return await self._changed("DELETE", key)

    # -- attempts --------------------------------------------------------------------------------------

    async def _changed(
        self, method: str, key: str, value: int | None = None, condition: Mapping[str, str] = {}
    ) -> bool:
        """Send a change, and repeat it where it may be, until that ends; then record what became of it."""
        headers = {**condition, "idempotency-key": f"{key}-{self._random.getrandbits(64):x}"}
        region, doubt = self._region, False
        for left in reversed(range(_ATTEMPTS)):
            outcome, answer = await self._attempt(region, method, key, value=value, headers=headers)
            doubt = doubt or outcome == "info"
            if outcome in ("ok", "refused") or not left or self._random.random() > _REPEATED:
                break
            region = self._random.choice(REGIONS)
        self._seen.pop(key, None)
        if outcome == "ok":
            self._log.ok()
            if answer is not None and "atoll-replayed" not in answer.headers:
                self._look(key, answer)
        elif doubt:
            # A refusal speaks of the last attempt alone.
            outcome = "info"
            self._log.info()
        else:
            self._log.fail()
        self._work.outcomes[outcome] += 1
        return outcome in ("ok", "refused")

    async def _attempt(
        self,
        region: str,
        method: str,
        key: str,
        *,
        value: int | None = None,
        headers: Mapping[str, str] = {},
        query: str = "",
    ) -> tuple[Outcome, Response | None]:
        body = b"" if value is None else json.dumps({"balance": value}).encode()
        sent = {**headers, "content-type": "application/json"} if body else headers
        try:
            answer = await self._work.transport.send(
                Request(region, method, f"/v1/account/{key}", query, sent, body, _TIMEOUT_S)
            )
        except RegionUnreachable:
            return "fail", None
        except Indefinite:
            return "info", None
        return outcome_of(answer, self._work), answer

    def _look(self, key: str, answer: Response | None) -> Any:
        """The value that an answer shows."""
        assert answer is not None
        shown = json.loads(answer.body)
        value = shown["value"] and shown["value"]["balance"]
        self._seen[key] = value, f'"{shown["version"]}"' if shown["version"] else ""
        return value
