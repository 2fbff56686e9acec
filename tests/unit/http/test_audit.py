from __future__ import annotations

from typing import Any

import pytest

from atoll.documents.mutation import put_of

from .served import RULES, Served


async def collided(it: Served, collection: str, field: str, key: str = "k", stamp_ms: int = 1_000_000) -> str:
    """Regions a and b wrote the same; returns the id of the record."""
    await it.ask("PUT", f"/v1/{collection}/{key}", {field: "ours"})
    body = b'{"%s":"theirs"}' % field.encode()
    await it.arrived(put_of(RULES[collection], key, body), stamp_ms=stamp_ms)
    (item,) = (await it.ask("GET", "/v1/conflicts", query={"key": key})).json["items"]
    found: str = item["id"]
    return found


async def ids(it: Served, **query: str) -> list[str]:
    answer = await it.ask("GET", "/v1/conflicts", query=query)
    assert answer.status == 200, answer.json
    return [item["id"] for item in answer.json["items"]]


async def test_a_record_holds_what_was_lost() -> None:
    async with Served() as it:
        await collided(it, "profile", "name")
        (item,) = (await it.ask("GET", "/v1/conflicts")).json["items"]
    assert (item["collection"], item["key"], item["kind"]) == ("profile", "k", "insert_exists")
    assert (item["status"], item["outcome"]) == ("open", "dropped")
    assert item["losing"]["value"] == {"name": "theirs", "age": 0}
    assert item["winning"]["value"] == {"name": "ours", "age": 0}
    assert item["losing"]["at"] == "1970-01-01T00:16:40.007Z"


async def test_nothing_is_listed_where_nothing_collided() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        assert (await it.ask("GET", "/v1/conflicts")).json == {"items": [], "cursor": None}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"collection": "profile"}, True),
        ({"collection": "page"}, False),
        ({"key": "k"}, True),
        ({"key": "l"}, False),
        ({"kind": "insert_exists"}, True),
        ({"kind": "update_deleted"}, False),
        ({"status": "open"}, True),
        ({"status": "manual"}, False),
        ({"origin": "a"}, True),
        ({"origin": "b"}, True),
        ({"origin": "c"}, False),
        ({"since": "1000000"}, True),
        ({"since": "1970-01-01T00:16:41Z"}, False),
        ({"until": "1970-01-01T00:16:41+00:00"}, True),
        ({"until": "1000"}, False),
        ({"collection": "profile", "origin": "b", "since": "0", "until": "9999999999999"}, True),
    ],
)
async def test_records_can_be_narrowed(query: dict[str, str], found: bool) -> None:
    async with Served("a", "c") as it:
        await collided(it, "profile", "name")
        assert bool(await ids(it, **query)) is found


async def test_records_go_page_by_page_newest_first() -> None:
    async with Served() as it:
        for n in range(5):
            await it.ask("PUT", f"/v1/profile/k{n}", {"name": "ours"})
        await it.arrived(*(put_of(RULES["profile"], f"k{n}", b'{"name":"theirs"}') for n in range(5)))
        keys: list[str] = []
        query: dict[str, str] = {"limit": "2"}
        for _ in range(3):
            page = (await it.ask("GET", "/v1/conflicts", query=query)).json
            keys += [item["key"] for item in page["items"]]
            query["cursor"] = page["cursor"] or ""
    assert keys == ["k4", "k3", "k2", "k1", "k0"]
    assert page["cursor"] is None


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("limit=0", "malformed-request"),
        ("limit=many", "malformed-request"),
        ("since=yesterday", "malformed-request"),
        ("until=2026-13-01", "malformed-request"),
        ("since=99999999999999999", "malformed-request"),
        ("cursor=x", "invalid-cursor"),
        ("cursor=bm90aGluZw", "invalid-cursor"),
        ("colour=red", "malformed-request"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(query: str, problem: str) -> None:
    async with Served() as it:
        assert (await it.ask("GET", "/v1/conflicts", query=query)).problem == problem


async def test_a_manual_conflict_is_resolved_by_the_application() -> None:
    async with Served() as it:
        conflict = await collided(it, "page", "title")
        assert await ids(it, status="manual") == [conflict]
        answer = await it.ask("POST", f"/v1/conflicts/{conflict}/resolve", {"value": {"title": "chosen"}})
        assert (answer.status, answer.json["value"]) == (200, {"title": "chosen"})
        assert "siblings" not in (await it.ask("GET", "/v1/page/k")).json
        assert await ids(it, status="manual") == []
        (item,) = (await it.ask("GET", "/v1/conflicts", query="status=resolved")).json["items"]
    assert (item["id"], item["reason"]) == (conflict, "chosen by the application")
    assert item["resolved_by"][1:] == ["a", 2]


async def test_a_resolution_can_be_repeated_under_its_key() -> None:
    async with Served() as it:
        conflict = await collided(it, "page", "title")
        path, body = f"/v1/conflicts/{conflict}/resolve", {"value": {"title": "chosen"}}
        first = await it.ask("POST", path, body, idempotency_key="once")
        again = await it.ask("POST", path, body, idempotency_key="once")
        assert (again.status, again.body) == (first.status, first.body)
        other = await it.ask("POST", path, body)
        assert (other.status, other.problem, other.json["id"]) == (409, "conflict", conflict)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "malformed-request"),
        ([], "malformed-request"),
        ({"value": {"title": "x"}, "why": "y"}, "malformed-request"),
        ({"value": {"title": 3}}, "invalid-document"),
        ({"value": None}, "invalid-document"),
    ],
)
async def test_a_resolution_that_is_no_document_resolves_nothing(body: Any, problem: str) -> None:
    async with Served() as it:
        conflict = await collided(it, "page", "title")
        answer = await it.ask("POST", f"/v1/conflicts/{conflict}/resolve", body)
        assert answer.problem == problem
        assert await ids(it, status="manual") == [conflict]


async def test_a_conflict_that_is_unknown_is_not_found() -> None:
    async with Served() as it:
        answer = await it.ask("POST", "/v1/conflicts/nothing/resolve", {"value": {}})
        assert answer.problem == "not-found"
        assert (await it.ask("DELETE", "/v1/conflicts")).problem == "method-not-allowed"


async def test_a_conflict_over_one_field_is_resolved_by_a_patch() -> None:
    async with Served() as it:
        conflict = await collided(it, "cart", "note")
        answer = await it.ask("POST", f"/v1/conflicts/{conflict}/resolve", {"value": {"note": "x"}})
        assert (answer.status, answer.problem) == (422, "invalid-operation")
        await it.ask("PATCH", "/v1/cart/k", {"$set": {"note": "chosen"}})
        assert await ids(it, status="resolved") == [conflict]
