"""Plain HTTP: a write is repeated until it is answered, a read is asked once."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from random import Random
from typing import Any, NamedTuple

import aiohttp

from ..cluster import REGIONS
from .deployment import Deployment
from .history import History

_TIMEOUT = aiohttp.ClientTimeout(total=8.0)
_READ_TIMEOUT = aiohttp.ClientTimeout(total=4.0)
_FINAL = frozenset({404, 409, 412})
_PROBLEM = "urn:atoll:problem:"


class Answer(NamedTuple):
    status: int
    body: Any
    token: str | None
    region: str
    """The one that was asked and answered; it may have asked another."""
    replayed: bool
    version: str | None

    @property
    def done(self) -> bool:
        return self.status == 200

    @property
    def problem(self) -> str:
        return str(self.body.get("type", "")).removeprefix(_PROBLEM)


class Request(NamedTuple):
    method: str
    path: str
    body: Any
    headers: dict[str, str]
    timeout: aiohttp.ClientTimeout


class Unanswered(Exception):
    """Given up after the run: nobody knows whether the write happened."""


class Caller:
    def __init__(self, deployment: Deployment, history: History, name: str, random: Random) -> None:
        self.give_up_at = float("inf")
        """On the monotonic clock."""
        self._deployment = deployment
        self._history = history
        self._name = name
        self._random = random
        self._numbers = itertools.count()

    def fresh_key(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    @property
    def over_time(self) -> bool:
        return time.monotonic() > self.give_up_at

    def region(self) -> str:
        return str(self._random.choice(REGIONS))

    async def write(
        self,
        workload: str,
        region: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        counts: bool = True,
    ) -> Answer:
        """Send until there is a definite answer. Raises Unanswered.

        After an indefinite answer, or none, only the same region can tell: it is asked until it does.
        `counts`: it must count once, however often it is sent.
        """
        headers = {"idempotency-key": self.fresh_key()} if counts else {}
        if token is not None:
            headers["atoll-session"] = token
        request = Request(method, path, body, headers, _TIMEOUT)
        first, pinned = region, False
        while True:
            answer = await self._send(region, request)
            if answer is not None and (answer.done or answer.status in _FINAL):
                self._history.moved += region != first
                if answer.done:
                    self._history.acknowledged[workload] += 1
                    self._history.replayed += answer.replayed
                    if counts and self._random.random() < 0.03:
                        await self._repeat(region, request, answer)
                return answer
            pinned = pinned or answer is None or not answer.body.get("definite", False)
            if answer is not None:
                self._history.answers[answer.problem] += 1
                if answer.status not in (503, 504, 507):
                    self._history.odd[f"{answer.status} {answer.problem}: {_shorter(answer.body)}"] += 1
            self._history.retries += 1
            if self.over_time:
                self._history.unanswered.append(f"{method} {path} in {region}")
                raise Unanswered(path)
            if not pinned:
                region = self.region()
            await asyncio.sleep(self._random.uniform(0.05, 0.4))

    async def read(self, region: str, path: str, *, token: str | None = None) -> Answer | None:
        """None when the region does not answer, or not now."""
        headers = {} if token is None else {"atoll-session": token}
        answer = await self._send(region, Request("GET", path, None, headers, _READ_TIMEOUT))
        if answer is not None and answer.status not in (200, 404, 503, 504):
            # 400: a read that was forwarded between regions through a proxy that changes bytes.
            self._history.odd[f"{answer.status} {answer.problem}: {_shorter(answer.body)}"] += 1
        return answer if answer is not None and answer.status in (200, 404) else None

    async def _repeat(self, region: str, request: Request, first: Answer) -> None:
        """A client that lost the answer asks again: it must get the same one, and nothing happens twice."""
        again = await self._send(region, request)
        if again is not None and again.status not in (503, 504, 507, 400, 500):
            kept = again.replayed and again.body == first.body
            told = f"{request} in {region}: first {first.body}, then {again.status} {again.body}"
            self._history.check("a repeated write counts once", kept, told)

    async def _send(self, region: str, request: Request) -> Answer | None:
        deployment = self._deployment
        urls = deployment.front_urls if self._random.random() < 0.5 else deployment.urls
        try:
            async with deployment.http.request(
                request.method,
                urls[region] + request.path,
                json=request.body,
                headers=request.headers,
                timeout=request.timeout,
            ) as response:
                return Answer(
                    response.status,
                    json.loads(await response.read()),
                    response.headers.get("atoll-session"),
                    region,
                    "atoll-replayed" in response.headers,
                    response.headers.get("etag"),
                )
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def _shorter(body: Any) -> str:
    return str(body.get("detail", body))[:160]
