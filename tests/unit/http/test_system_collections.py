"""No road of the interface leads to a system collection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.client import multiplex
from atoll.client.multiplex import AnswerReader, Asked
from atoll.documents.mutation import Delete, Put, Write
from atoll.errors import Unavailable
from atoll.replication.messages import WriteCall
from atoll.schema.system import system_collections

from ..virtual_time import in_virtual_time
from .asgi import Connection
from .served import Served

NAMES = sorted(system_collections())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/{name}", b""),
        ("GET", "/v1/{name}/k", b""),
        ("PUT", "/v1/{name}/k", {}),
        ("PATCH", "/v1/{name}/k", {"$set": {"kind": "x"}}),
        ("DELETE", "/v1/{name}/k", b""),
        ("POST", "/v1/batch", {"writes": [{"put": {"collection": "{name}", "key": "k", "value": {}}}]}),
        ("POST", "/v1/batch", {"writes": [{"delete": {"collection": "{name}", "key": "k"}}]}),
    ],
)
async def test_it_is_unknown_as_any_undeclared_name(name: str, method: str, path: str, body: Any) -> None:
    def named(name: str) -> Any:
        return (
            body if isinstance(body, bytes) else msgspec.json.encode(body).replace(b"{name}", name.encode())
        )

    async with Served() as it:
        answer = await it.ask(method, path.format(name=name), named(name))
        undeclared = await it.ask(method, path.format(name="undeclared"), named("undeclared"))
        assert (answer.status, answer.problem) == (404, "unknown-collection")
        assert answer.body == undeclared.body.replace(b"undeclared", name.encode())
        assert it["a"].vector == {}


async def test_a_feed_of_it_is_refused() -> None:
    async with Served() as it:
        answer = await it.ask("GET", "/v1/changes", query={"collection": NAMES[0]})
        assert (answer.status, answer.problem) == (404, "unknown-collection")


async def test_a_multiplexed_call_does_not_reach_it() -> None:
    async with Served() as it:
        json = {"content-type": "application/json"}
        sent = multiplex.encode_asked([Asked("PUT", f"/v1/{NAMES[0]}/k", "", json, b"{}")])
        head = {b"content-type": multiplex.CONTENT_TYPE.encode()}
        connection = Connection("POST", multiplex.PATH.encode(), sent, headers=head)
        await it.apps["a"](connection.scope, connection.receive, connection.send)
        found = [
            each for message in connection.sent[1:] for each in AnswerReader(1 << 20).feed(message["body"])
        ]
        assert [(each.status, b"unknown-collection" in each.body) for each in found] == [(404, True)]


@in_virtual_time
async def test_a_forwarded_write_to_it_is_refused() -> None:
    async with Served("a", "b") as it:
        for mutation in (Put(NAMES[0], "k", b"{}"), Delete(NAMES[0], "k")):
            with pytest.raises(Unavailable, match="still runs other declarations"):
                await it["a"].answer(WriteCall(Write((mutation,)), {}))


async def test_nothing_describes_it() -> None:
    async with Served() as it:
        for path in ("/openapi.json", "/admin/statistics"):
            assert NAMES[0] not in (await it.ask("GET", path)).body.decode()


async def test_digests_cover_it() -> None:
    async with Served() as it:
        assert NAMES[0] in (await it.ask("GET", "/admin/digest")).json["collections"]
