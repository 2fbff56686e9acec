"""Documents of the largest ordinary size on every road out of a region."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from atoll.client.transport import Request
from atoll.documents.mutation import Mutation, put_of
from atoll.schema.application import application_of
from atoll.schema.bounds import PAGE_BYTES
from atoll.schema.collection import Collection

from ..virtual_time import in_virtual_time
from .served import RULES, Served
from .test_feed import following

SIZE = 900_000


class Profile(Collection, resolve="lww"):
    name: str
    age: int = 0


def large(key: str, letter: str = "x") -> Mutation:
    return put_of(RULES["profile"], key, msgspec.json.encode({"name": letter * SIZE}))


async def fill(it: Served, count: int) -> None:
    for n in range(count):
        assert (await it.ask("PUT", f"/v1/profile/k{n:02}", {"name": "x" * SIZE})).status == 200


@in_virtual_time
async def test_pages_of_large_documents_are_short_and_complete() -> None:
    async with Served() as it:
        await fill(it, 12)
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 400}
        while True:
            answer = await it.ask("GET", "/v1/profile", query=query)
            assert len(answer.body) < PAGE_BYTES + 2 * SIZE
            seen += [item["key"] for item in answer.json["items"]]
            if answer.json["cursor"] is None:
                break
            query["cursor"] = answer.json["cursor"]
    assert seen == [f"k{n:02}" for n in range(12)]


@in_virtual_time
async def test_a_batch_that_no_peer_would_take_is_refused_and_later_writes_arrive() -> None:
    async with Served("a", "b", application=application_of(Profile, name="sizes")) as it:
        await fill(it, 40)
        marks = [
            {"patch": {"collection": "profile", "key": f"k{n:02}", "operators": {"$set": {"age": 1}}}}
            for n in range(40)
        ]
        refused = await it.ask("POST", "/v1/batch", {"writes": marks}, prefer="return=minimal")
        assert (refused.status, refused.problem) == (413, "too-large")
        refused = await it.ask("POST", "/v1/batch", {"writes": marks[:30]})
        assert (refused.status, refused.problem) == (413, "too-large")
        done = await it.ask("POST", "/v1/batch", {"writes": marks[:30]}, prefer="return=minimal")
        assert done.status == 200
        await it.ask("PUT", "/v1/profile/last", {"name": "last"})
        await it["b"].group_commit.progress.covered({"a": 42})
        assert (await it.ask("GET", "/v1/profile/k07", region="b")).json["value"]["age"] == 1
        assert (await it["a"].verify()).equal


@in_virtual_time
async def test_a_large_write_comes_as_several_events() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/first", {"name": "first"})
        writes = [
            {"put": {"collection": "profile", "key": f"k{n}", "value": {"name": "x" * SIZE}}}
            for n in range(12)
        ]
        await it.ask("POST", "/v1/batch", {"writes": writes}, prefer="return=minimal")
        await it.ask("PUT", "/v1/profile/last", {"name": "last"})
        async with following(it) as events:
            first = await events.change()
            pieces = [await events.change() for _ in range(3)]
            last = await events.change()
        assert "more" not in first
        assert [len(each["changes"]) for each in pieces] == [5, 5, 2]
        assert [each.get("more", False) for each in pieces] == [True, True, False]
        assert {each["cursor"] for each in pieces[:2]} == {first["cursor"]}
        assert ([each["seq"] for each in pieces], last["seq"]) == ([2, 2, 2], 3)
        async with following(it, f"cursor={pieces[1]['cursor']}") as events:
            assert (await events.change())["changes"][0]["key"] == "k0"
        async with following(it, f"cursor={pieces[2]['cursor']}") as events:
            assert (await events.change())["seq"] == 3


@in_virtual_time
async def test_the_audit_of_large_documents_has_short_pages() -> None:
    async with Served() as it:
        keys = [f"k{n}" for n in range(8)]
        for key in keys:
            await it.ask("PUT", f"/v1/profile/{key}", {"name": "x" * SIZE})
        await it.arrived(*(large(key, "b") for key in keys))
        found: list[str] = []
        query: dict[str, Any] = {"limit": 100}
        while True:
            answer = await it.ask("GET", "/v1/conflicts", query=query)
            assert len(answer.body) < PAGE_BYTES + 3 * SIZE
            found += [each["key"] for each in answer.json["items"]]
            if answer.json["cursor"] is None:
                break
            query["cursor"] = answer.json["cursor"]
    assert sorted(found) == keys


@in_virtual_time
async def test_many_large_patches_at_once_are_committed_in_pieces() -> None:
    async with Served() as it:
        await fill(it, 40)
        before = it.stores["a"].tables.commits
        transport = it.transport()
        body, headers = b'{"$set":{"age":7}}', {"content-type": "application/json"}
        answers = await asyncio.gather(
            *(
                transport.send(Request("a", "PATCH", f"/v1/profile/k{n:02}", "", headers, body, 5.0))
                for n in range(40)
            )
        )
        assert [answer.status for answer in answers] == [200] * 40
        assert it.stores["a"].tables.commits - before >= 3


@in_virtual_time
async def test_a_patch_may_set_as_much_as_a_document_holds() -> None:
    async with Served(document_bytes=1000) as it:
        name = "x" * (1000 - len(b'{"name":"","age":0}'))
        answer = await it.ask("PATCH", "/v1/profile/k", {"$set": {"name": name}})
        assert (answer.status, len((await it.ask("GET", "/v1/profile/k")).json["value"]["name"])) == (
            200,
            len(name),
        )
        answer = await it.ask("PATCH", "/v1/profile/k", {"$set": {"name": name + "x"}})
        assert (answer.status, answer.problem) == (413, "too-large")
