from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.client import multiplex
from atoll.client.multiplex import Answered, AnswerReader, Asked

from ..virtual_time import in_virtual_time
from .asgi import Connection
from .served import CODEC, Served


def asked(method: str, path: str, body: Any = b"", query: str = "", **headers: str) -> Asked:
    if not isinstance(body, bytes):
        body = msgspec.json.encode(body)
    if method != "GET":
        headers = {"content_type": "application/json", **headers}
    return Asked(method, path, query, {name.replace("_", "-"): text for name, text in headers.items()}, body)


async def chunks(it: Served, *requests: Asked) -> list[list[Answered]]:
    """What came in each piece of the answer."""
    connection = Connection(
        "POST",
        multiplex.PATH.encode(),
        multiplex.encode_asked(requests),
        headers={b"content-type": multiplex.CONTENT_TYPE.encode()},
    )
    await it.apps["a"](connection.scope, connection.receive, connection.send)
    assert connection.status == 200, connection.body
    reader = AnswerReader(8 << 20)
    return [list(reader.feed(message["body"])) for message in connection.sent[1:]]


async def answers(it: Served, *requests: Asked) -> list[Answered]:
    found = [answered for chunk in await chunks(it, *requests) for answered in chunk]
    return sorted(found, key=lambda answered: answered.number)


async def test_each_is_answered_as_it_would_be_alone() -> None:
    requests = [
        asked("PUT", "/v1/profile/new", {"name": "A"}, if_none_match="*"),
        asked("GET", "/v1/profile/there"),
        asked("GET", "/v1/profile/gone"),
        asked("GET", "/v1/profile", query="limit=1"),
        asked("PUT", "/v1/profile/bad", b'{"name":'),
        asked("GET", "/v1/profile/there", query="nonsense=1"),
        asked("DELETE", "/v1/profile/gone"),
        asked("POST", "/v1/nothing/of/the/kind"),
    ]
    async with Served() as together, Served() as alone:
        for it in (together, alone):
            await it.ask("PUT", "/v1/profile/there", {"name": "B"})
        found = await answers(together, *requests)
        for number, request in enumerate(requests):
            single = await alone.ask(
                request.method, request.path, request.body, query=request.query, **request.headers
            )
            assert (found[number].number, found[number].status) == (number, single.status)
            if "atoll-session" not in single.headers:
                assert (found[number].body, found[number].headers) == (single.body, single.headers)
            elif single.status == 200:
                assert msgspec.json.decode(found[number].body).keys() == single.json.keys()
    assert [answered.status for answered in found] == [200, 200, 404, 200, 400, 400, 404, 404]


async def test_collections_that_are_called_like_streams_are_none() -> None:
    requests = [asked("GET", f"/v1/{name}/k") for name in ("changeset", "multiplexed", "change")]
    async with Served() as it:
        found = await answers(it, *requests)
        for answered, request in zip(found, requests, strict=True):
            single = await it.ask("GET", request.path)
            assert (answered.status, answered.body) == (single.status, single.body)
            assert single.problem == "unknown-collection"


async def test_writes_that_come_together_share_one_commit() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/first", {"name": "A"})  # what a start has to do is done
        commits: list[int] = []
        it["a"].group_commit.listen(lambda batch: commits.append(len(batch.written)))
        found = await answers(it, *(asked("PUT", f"/v1/profile/{n}", {"name": "A"}) for n in range(30)))
    assert [answered.status for answered in found] == [200] * 30
    assert [entries for entries in commits if entries] == [30]


@in_virtual_time
async def test_one_that_waits_does_not_keep_the_others() -> None:
    async with Served() as it:
        token = CODEC.encode({"b": 3})
        waits = asked("GET", "/v1/profile/k", query="consistency=session&max_wait=0.5", atoll_session=token)
        found = await chunks(it, waits, asked("PUT", "/v1/profile/l", {"name": "B"}))
    first, *later = [chunk for chunk in found if chunk]
    assert [(each.number, each.status) for each in first] == [(1, 200)]
    assert [each.number for chunk in later for each in chunk] == [0]


@pytest.mark.parametrize(
    "request_",
    [
        asked("GET", "/v1/changes"),
        asked("GET", "/v1/changes?cursor=now"),
        asked("POST", "/v1/multiplex", multiplex.encode_asked([])),
        asked("POST", "/replication/call"),
        asked("GET", "/admin/statistics"),
        asked("GET", "/v1/profile/ü"),
        asked("GET", "/v1/profile/k", forked="\u4e2d"),
        asked("GET", "/v1/profile/k", query="ü"),
    ],
    ids=lambda request: f"{request.method} {request.path}",
)
async def test_what_cannot_be_asked_with_others_is_refused_alone(request_: Asked) -> None:
    async with Served() as it:
        refused, good = await answers(it, request_, asked("PUT", "/v1/profile/k", {"name": "A"}))
    assert (refused.status, good.status) == (400, 200)
    assert msgspec.json.decode(refused.body)["type"] == "urn:atoll:problem:malformed-request"
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_body_that_holds_no_requests_is_refused() -> None:
    async with Served() as it:
        answer = await it.ask("POST", multiplex.PATH, b"[]", content_type=multiplex.CONTENT_TYPE)
        assert (answer.status, answer.problem) == (400, "malformed-request")
        many = multiplex.encode_asked([asked("GET", "/v1/profile/k")] * 257)
        answer = await it.ask("POST", multiplex.PATH, many, content_type=multiplex.CONTENT_TYPE)
        assert (answer.status, answer.problem) == (413, "too-large")


async def test_nothing_asked_is_nothing_answered() -> None:
    async with Served() as it:
        assert await answers(it) == []


@in_virtual_time
async def test_many_large_answers_are_held_a_few_at_a_time() -> None:
    async with Served() as it:
        for n in range(6):
            await it.ask("PUT", f"/v1/profile/k{n}", {"name": "x" * 900_000})
        listings = [asked("GET", "/v1/profile")] * 40
        documents = [asked("GET", "/v1/profile/k1")] * 40
        writes = [asked("PUT", f"/v1/profile/new{n}", {"name": "A"}) for n in range(40)]
        found = await chunks(it, *listings, *documents, *writes)
    sizes = [sum(len(each.body) for each in chunk) for chunk in found]
    assert max(sizes) < 2 * (8 << 20)
    assert sum(sizes) > 40 * 6 * 900_000
    assert {each.status for chunk in found for each in chunk} == {200}
    assert sum(map(len, found)) == 120
