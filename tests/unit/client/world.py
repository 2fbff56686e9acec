"""Regions that do as a test says, on a clock that only moves when the client waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

import msgspec

from atoll import errors
from atoll.client import ClientOptions, Request, Response
from atoll.client.exchange import Exchanges, Outcome, Pause, Steps
from atoll.client.options import DEFAULTS
from atoll.client.routing import Router
from atoll.schema import BoundedCounter, Collection, MapOf, SetOf

T = TypeVar("T")

Answer = Response | errors.AtollError
Behaviour = Callable[[Request], Answer]


class Inventory(Collection):
    title: str = ""
    stock: BoundedCounter
    tags: SetOf[str]
    labels: MapOf[str]


class Account(Collection, consistency="strong"):
    balance: int = 0


def shown(key: str = "k", version: str = "v1", region: str = "tokyo", **value: Any) -> Response:
    """A good answer about one document."""
    body = msgspec.json.encode({"key": key, "value": value, "version": version})
    return Response(200, {"atoll-region": region, "atoll-session": f"seen-{version}"}, body)


def refused(error: errors.AtollError, **headers: str) -> Response:
    """A problem document."""
    kind = type(error)
    body = {"type": f"urn:atoll:problem:{kind.type}", "title": kind.type, "detail": error.message}
    body |= {"status": kind.status, "definite": kind.definite, **error.details}
    return Response(kind.status, headers, msgspec.json.encode(body))


def unreachable(request: Request) -> Answer:
    return errors.RegionUnreachable("connection refused")


def silent(request: Request) -> Answer:
    return errors.Indefinite("no answer in time")


def working(request: Request) -> Answer:
    return shown(region=request.region)


class World:
    """All regions work until `regions[name]` is replaced; every request is kept in `sent`."""

    def __init__(self, *names: str, options: ClientOptions = DEFAULTS) -> None:
        self.regions: dict[str, Behaviour] = dict.fromkeys(names, working)
        self.sent: list[Request] = []
        self.now_s = 100.0
        self.keys = 0
        self.router = Router(names, options, Random(1))
        self.exchanges = Exchanges(
            self.router,
            {name: f"http://{name}" for name in names},
            options,
            clock=lambda: self.now_s,
            random=Random(2),
            new_key=self._new_key,
        )

    def _new_key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    @property
    def asked(self) -> list[str]:
        """The regions that requests went to, in order."""
        return [request.region for request in self.sent]

    def answer(self, request: Request) -> Answer:
        self.sent.append(request)
        answer = self.regions[request.region](request)
        if isinstance(answer, errors.Indefinite):
            self.now_s += request.timeout_s
        return answer

    def drive(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    self.now_s += step.seconds
                    outcome = None
                else:
                    outcome = self.answer(step)
        except StopIteration as done:
            result: T = done.value
            return result


def one_after_another(answers: Sequence[Answer]) -> Behaviour:
    """Each request gets the next answer; the last one stays."""
    left = list(answers)

    def behave(request: Request) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    return behave
