"""The HTTP client of the shop's programs: JSON requests, repeated until a region answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import aiohttp
import msgspec

from atoll.demo.ledger import Ledger

_PAUSE_S = 0.25
_TRY_AGAIN = frozenset({503, 504})
_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    status: int
    body: Any
    session: str | None
    """What the session has seen now."""
    replayed: bool
    """It was given before, to the same idempotency key."""
    attempts: int = 1


class Unanswered(Exception):
    """The region did not answer in time. A write may have happened."""


async def ask(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    within_s: float = 10.0,
) -> Answer:
    """One request with a body in JSON. Raises Unanswered."""
    data = None if body is None else _encode(body)
    headers = {"content-type": "application/json", **headers} if body is not None else headers
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with http.request(method, url, data=data, headers=headers, timeout=timeout) as response:
            found, told = msgspec.json.decode(await response.read()), response.headers
            return Answer(response.status, found, told.get("atoll-session"), "atoll-replayed" in told)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unanswered(f"{url} does not answer: {error!r}") from error


@dataclass(slots=True)
class HttpClient:
    """Sends requests to regions. A write carries an idempotency key, so a repetition is safe."""

    http: aiohttp.ClientSession
    urls: Mapping[str, str]
    ledger: Ledger
    give_up_at: float = float("inf")
    """On the monotonic clock. It matters only if a region never comes back."""

    async def write(
        self,
        region: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        idempotency_key: str,
        session: str | None = None,
    ) -> Answer:
        """Send until there is a definite answer. Raises Unanswered."""
        headers = {"idempotency-key": idempotency_key}
        if session is not None:
            headers["atoll-session"] = session
        for attempts in itertools.count(1):
            began = time.perf_counter()
            with contextlib.suppress(Unanswered):
                answer = await ask(self.http, method, self.urls[region] + path, body, headers=headers)
                if answer.status not in _TRY_AGAIN:
                    self._book(region, path, answer, (time.perf_counter() - began) * 1000)
                    return answer._replace(attempts=attempts)
            self.ledger.retries += 1
            if time.monotonic() > self.give_up_at:
                self.ledger.unanswered.append(f"{method} {path} in {region}")
                raise Unanswered(path)
            await asyncio.sleep(_PAUSE_S)
        raise AssertionError

    def _book(self, region: str, path: str, answer: Answer, took_ms: float) -> None:
        ledger = self.ledger
        if answer.status == 200:
            ledger.acknowledged += 1
            ledger.took_ms(region, took_ms)
            ledger.replayed += answer.replayed
        elif answer.status != 409:
            ledger.surprises.append(
                f"{region} answered {answer.status} to {path}: {answer.body.get('detail')}"
            )

    async def read(self, region: str, path: str, *, session: str | None = None) -> Answer:
        """Send once. Raises Unanswered."""
        headers = {} if session is None else {"atoll-session": session}
        return await ask(self.http, "GET", self.urls[region] + path, headers=headers)
