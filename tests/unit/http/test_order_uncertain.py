"""A write whose order is not certain in time: its answer says that it is done, and that its session has seen it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll.schema import Collection
from atoll.schema.application import application_of

from ..virtual_time import in_virtual_time
from .served import CODEC, Answer, Served


class Event(Collection, commit_wait=True):
    text: str = ""


APPLICATION = application_of(Event, name="ordered")
BATCH = {"writes": [{"put": {"collection": "event", "key": key, "value": {"text": "x"}}} for key in "kl"]}


async def uncertain(it: Served, method: str, path: str, body: Any) -> Answer:
    asked = asyncio.create_task(it.ask(method, path, body, idempotency_key="one"))
    await asyncio.sleep(0.1)
    it.skew_ms["a"] = -10_000
    return await asked


@pytest.mark.parametrize(
    ("method", "path", "body"), [("PUT", "/v1/event/k", {"text": "x"}), ("POST", "/v1/batch", BATCH)]
)
@in_virtual_time
async def test_answer_says_that_it_is_done_and_a_repetition_that_it_is_certain(
    method: str, path: str, body: Any
) -> None:
    async with Served(application=APPLICATION) as it:
        answer = await uncertain(it, method, path, body)
        assert (answer.status, answer.problem, answer.json["definite"]) == (504, "order-uncertain", False)
        assert (answer.json["region"], answer.json["seq"]) == ("a", 1)
        assert CODEC.decode(answer.headers["atoll-session"]) == it["a"].vector
        shown = await it.ask("GET", "/v1/event/k", atoll_session=answer.headers["atoll-session"])
        assert shown.json["value"] == {"text": "x"}
        it.skew_ms["a"] = 0
        again = await it.ask(method, path, body, idempotency_key="one")
        assert (again.status, again.headers["atoll-replayed"]) == (200, "true")
        assert it["a"].vector == CODEC.decode(answer.headers["atoll-session"])
