"""The HTTP client of the shop's programs: JSON requests, repeated until a region answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import msgspec

from atoll.demo.ledger import Ledger

_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_PAUSE_S = 0.25
_TRY_AGAIN = frozenset({503, 504})
_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    status: int
    body: Any
    session: str | None
    """What the session has seen now."""
    attempts: int


class Unanswered(Exception):
    """No region answered in time. The write may have happened."""


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
        headers = {"idempotency-key": idempotency_key, "content-type": "application/json"}
        if session is not None:
            headers["atoll-session"] = session
        data = None if body is None else _encode(body)
        attempts = 0
        while True:
            attempts += 1
            began = time.perf_counter()
            try:
                async with self.http.request(
                    method, self.urls[region] + path, data=data, headers=headers, timeout=_TIMEOUT
                ) as response:
                    raw = await response.read()
                    if response.status not in _TRY_AGAIN:
                        took_ms = (time.perf_counter() - began) * 1000
                        session = response.headers.get("atoll-session")
                        answer = Answer(response.status, msgspec.json.decode(raw), session, attempts)
                        self._book(region, path, answer, took_ms, "atoll-replayed" in response.headers)
                        return answer
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            self.ledger.retries += 1
            if time.monotonic() > self.give_up_at:
                self.ledger.unanswered.append(f"{method} {path} in {region}")
                raise Unanswered(path)
            await asyncio.sleep(_PAUSE_S)

    def _book(self, region: str, path: str, answer: Answer, took_ms: float, replayed: bool) -> None:
        ledger = self.ledger
        if answer.status == 200:
            ledger.acknowledged += 1
            ledger.took_ms(region, took_ms)
            ledger.replayed += replayed
        elif answer.status != 409:
            ledger.surprises.append(
                f"{region} answered {answer.status} to {path}: {answer.body.get('detail')}"
            )

    async def read(self, region: str, path: str, *, session: str | None = None) -> Answer:
        """Send once. Raises aiohttp.ClientError, TimeoutError, OSError."""
        headers = {} if session is None else {"atoll-session": session}
        async with self.http.get(self.urls[region] + path, headers=headers, timeout=_TIMEOUT) as response:
            body = msgspec.json.decode(await response.read())
            return Answer(response.status, body, response.headers.get("atoll-session"), 1)
