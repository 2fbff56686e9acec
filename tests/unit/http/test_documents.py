from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.mutation import put_of
from atoll.errors import InvalidCursor
from atoll.http.common import decode_cursor, encode_cursor
from atoll.store.port import Row

from ..region.world import APPLICATION
from ..virtual_time import in_virtual_time
from .served import CODEC, RULES, Served

ANN = {"name": "Ann", "age": 4}


# -- one document --------------------------------------------------------------------------------------


async def test_a_document_comes_back_as_it_was_put() -> None:
    async with Served() as it:
        put = await it.ask("PUT", "/v1/profile/ann", ANN)
        got = await it.ask("GET", "/v1/profile/ann")
    assert put.status == got.status == 200
    assert put.json == got.json == {"key": "ann", "value": ANN, "version": got.json["version"]}
    assert put.headers["etag"] == got.headers["etag"] == f'"{got.json["version"]}"'
    assert got.headers["atoll-region"] == "a"
    assert CODEC.decode(got.headers["atoll-session"]) == {"a": 1}


async def test_what_is_absent_is_not_found_and_still_has_a_token() -> None:
    async with Served() as it:
        answer = await it.ask("GET", "/v1/profile/none")
    assert (answer.status, answer.problem) == (404, "not-found")
    assert (answer.json["collection"], answer.json["key"]) == ("profile", "none")
    assert CODEC.decode(answer.headers["atoll-session"]) == {}


@pytest.mark.parametrize(
    ("path", "key"),
    [("a%2Fb", "a/b"), ("a/b", "a/b"), ("%C3%A9", "é"), ("a%20b", "a b"), ("%25", "%"), ("a%3Fb", "a?b")],
)
async def test_a_key_is_taken_from_the_path(path: str, key: str) -> None:
    async with Served() as it:
        answer = await it.ask("PUT", f"/v1/profile/{path}", ANN)
        assert answer.json["key"] == key
        assert it.shown("a", "profile", key) == ANN


@pytest.mark.parametrize("path", ["", "%00", "%ff", "e%CC%81", "x" * 513, "%2E%2E"])
async def test_a_key_that_is_none_is_refused(path: str) -> None:
    async with Served() as it:
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            answer = await it.ask(method, f"/v1/profile/{path}", ANN)
            assert (answer.status, answer.problem) == (400, "invalid-key")


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("GET", "/v1/profiles/k", b"", "unknown-collection"),
        ("PUT", "/v1/unheard/k", b"{}", "unknown-collection"),
        ("PUT", "/v1/profile/k", b"", "malformed-request"),
        ("PUT", "/v1/profile/k", b"{", "malformed-request"),
        ("PUT", "/v1/profile/k", b'{"nmae":"x"}', "unknown-field"),
        ("PUT", "/v1/profile/k", b'{"name":3}', "invalid-document"),
        ("PATCH", "/v1/profile/k", b"not json", "malformed-request"),
        ("PATCH", "/v1/profile/k", b'{"$inc":{"age":1}}', "invalid-operation"),
        ("PATCH", "/v1/profile/k", b'{"$set":{"age":1}}', "not-found"),
        ("PATCH", "/v1/stock/k", b'{"$inc":{"left":-1}}', "bound-exceeded"),
        ("DELETE", "/v1/profile/k", b"", "not-found"),
        ("POST", "/v1/profile/k", b"{}", "method-not-allowed"),
        ("PUT", "/v1/profile", b"{}", "method-not-allowed"),
        ("GET", "/nowhere", b"", "not-found"),
        ("GET", "/v1", b"", "not-found"),
        ("POST", "/v1/payments", b"{}", "unknown-collection"),
    ],
)
async def test_what_cannot_be_done_says_why(method: str, path: str, body: bytes, problem: str) -> None:
    async with Served() as it:
        answer = await it.ask(method, path, body)
        assert answer.problem == problem
        assert it["a"].vector == {}


async def test_a_patch_changes_what_it_names() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN)
        answer = await it.ask("PATCH", "/v1/profile/ann", {"$set": {"age": 5}})
        assert answer.json["value"] == {"name": "Ann", "age": 5}
        counted = await it.ask("PATCH", "/v1/views/page", {"$inc": {"seen": 2}})
        assert counted.json["value"] == {"seen": 2}


async def test_a_deletion_answers_with_nothing_left() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN)
        answer = await it.ask("DELETE", "/v1/profile/ann")
        assert (answer.status, answer.json["value"]) == (200, None)
        assert (await it.ask("GET", "/v1/profile/ann")).status == 404


async def test_head_says_the_same_without_a_body() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN)
        got, head = [await it.ask(method, "/v1/profile/ann") for method in ("GET", "HEAD")]
    assert (head.status, head.body) == (200, b"")
    assert head.headers == got.headers


async def test_a_document_past_the_limit_is_refused() -> None:
    async with Served(document_bytes=100) as it:
        answer = await it.ask("PUT", "/v1/profile/ann", {"name": "x" * 200})
        assert (answer.status, answer.problem, answer.json["limit_bytes"]) == (413, "too-large", 100)
        await it.ask("PATCH", "/v1/note/n", {"$append": {"body": "x" * 50}})
        grown = await it.ask("PATCH", "/v1/note/n", {"$append": {"body": "x" * 50}})
        assert (grown.status, grown.problem) == (413, "too-large")


# -- preconditions -------------------------------------------------------------------------------------


async def test_if_match_guards_against_lost_updates() -> None:
    async with Served() as it:
        first = await it.ask("PUT", "/v1/profile/ann", ANN)
        tag = first.headers["etag"]
        assert (await it.ask("PUT", "/v1/profile/ann", ANN, if_match=tag)).status == 200
        for method, body in (("PUT", ANN), ("PATCH", {"$set": {"age": 1}}), ("DELETE", b"")):
            late = await it.ask(method, "/v1/profile/ann", body, if_match=tag)
            assert (late.status, late.problem) == (412, "version-mismatch")
        assert (await it.ask("DELETE", "/v1/profile/ann", if_match="*")).status == 200


async def test_if_none_match_creates_only() -> None:
    async with Served() as it:
        assert (await it.ask("PUT", "/v1/profile/ann", ANN, if_none_match="*")).status == 200
        again = await it.ask("PUT", "/v1/profile/ann", ANN, if_none_match="*")
        assert (again.status, again.problem) == (412, "version-mismatch")
        both = await it.ask("PUT", "/v1/profile/ann", ANN, if_none_match="*", if_match="*")
        assert both.problem == "version-mismatch"


@pytest.mark.parametrize(
    ("method", "condition"),
    [("PATCH", "if_none_match"), ("DELETE", "if_none_match"), ("GET", "if_match")],
)
async def test_a_condition_that_a_call_does_not_take_is_refused(method: str, condition: str) -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN)
        answer = await it.ask(method, "/v1/profile/ann", {"$set": {"age": 1}}, **{condition: "*"})
        assert (answer.status, answer.problem) == (400, "malformed-request")
        assert it.shown("a", "profile", "ann") == ANN


@pytest.mark.parametrize("path", ["/v1/profile/ann", "/v1/profile", "/v1/conflicts", "/openapi.json"])
async def test_what_the_caller_has_is_not_sent_again(path: str) -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN)
        tag = (await it.ask("GET", path)).headers["etag"]
        for held in (tag, f'"x", W/{tag}', "*"):
            answer = await it.ask("GET", path, if_none_match=held)
            assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
        assert (await it.ask("GET", path, if_none_match='"x"')).status == 200


async def test_a_document_that_changed_is_sent_again() -> None:
    async with Served() as it:
        tag = (await it.ask("PUT", "/v1/profile/ann", ANN)).headers["etag"]
        await it.ask("PATCH", "/v1/profile/ann", {"$set": {"name": "Anne"}})
        for path in ("/v1/profile/ann", "/v1/profile"):
            assert (await it.ask("GET", path, if_none_match=tag)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"if_match": "x"},
        {"if_match": ""},
        {"if_match": '"'},
        {"if_match": "W/x"},
        {"if_match": '"x", y'},
        {"if_none_match": '"x"'},
    ],
)
async def test_a_precondition_that_cannot_be_read_is_refused(headers: dict[str, str]) -> None:
    async with Served() as it:
        assert (await it.ask("PUT", "/v1/profile/k", ANN, **headers)).problem == "malformed-request"


@pytest.mark.parametrize(
    ("key", "patch"),
    [
        ("views/k", b'{"$inc":{"seen":-9223372036854775809}}'),
        ("note/k", b'{"$splice":{"body":{"at":9223372036854775808}}}'),
        ("cart/k", b'{"$add":{"items":{"a":9223372036854775808}}}'),
    ],
)
async def test_a_number_that_no_store_holds_is_refused_under_a_used_key(key: str, patch: bytes) -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/ann", ANN, idempotency_key="once")
        answer = await it.ask("PATCH", f"/v1/{key}", patch, idempotency_key="once")
        assert (answer.status, answer.problem) == (422, "invalid-operation")


# -- sessions, consistency -----------------------------------------------------------------------------


async def test_a_token_from_elsewhere_is_refused() -> None:
    async with Served() as it:
        for token in ("", "nonsense", CODEC.encode({"a": 9})):
            answer = await it.ask("GET", "/v1/profile/k", atoll_session=token)
            assert (answer.status, answer.problem) == (400, "invalid-token")


async def test_a_read_that_cannot_be_as_new_as_its_session_is_told_so() -> None:
    async with Served() as it:
        token = CODEC.encode({"b": 3})
        answer = await it.ask("GET", "/v1/note/k", query="max_wait=0", atoll_session=token)
        assert (answer.status, answer.problem) == (503, "token-not-reached")
        assert answer.json["missing"] == {"b": 3}
        assert answer.headers["retry-after"] == "1"
        eventual = await it.ask("GET", "/v1/profile/k", atoll_session=token)
        assert eventual.problem == "not-found"
        assert CODEC.decode(eventual.headers["atoll-session"]) == {"b": 3}


@pytest.mark.parametrize(
    "query",
    [
        "consistency=mostly",
        "max_wait=-1",
        "max_wait=nan",
        "max_wait=1e9",
        "max_wait=",
        "max_staleness=soon",
        "limit=3",
        "unheard=1",
        "consistency=%ff",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    async with Served() as it:
        answer = await it.ask("GET", "/v1/profile/k", query=query)
        assert (answer.status, answer.problem) == (400, "malformed-request")


@in_virtual_time
async def test_a_fallback_is_never_silent() -> None:
    async with Served("a", "b", "c", application=APPLICATION) as it:

        async def answers() -> list[str | None]:
            asked = (
                await it.ask("PUT", "/v1/stock/k", {"left": 30}),
                await it.ask("GET", "/v1/stock/k"),
                await it.ask(
                    "POST",
                    "/v1/batch",
                    {"writes": [{"put": {"collection": "stock", "key": "k", "value": {"left": 30}}}]},
                ),
                await it.ask("GET", "/v1/stock/k", query="consistency=eventual"),
            )
            assert [answer.status for answer in asked] == [200] * 4
            return [answer.headers.get("atoll-degraded") for answer in asked]

        await it.settled()
        assert await answers() == [None] * 4
        it.partition("ab", "ac")
        await asyncio.sleep(3)
        assert await answers() == ["escrow", "escrow; not heard: b, c", "escrow", None]
        it.partition("ab")
        await asyncio.sleep(3)
        assert await answers() == [None, "escrow; not heard: b", None, None]


@in_virtual_time
async def test_an_answer_names_the_region_that_gave_it() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        put = await it.ask("PUT", "/v1/order/k", {"region": "b"})
        assert (put.status, put.headers["atoll-region"]) == (200, "b")
        assert CODEC.decode(put.headers["atoll-session"]) == {"b": 1}
        it.partition("ab")
        cut = await it.ask("PUT", "/v1/order/l", {"region": "b"})
        assert (cut.status, cut.problem, cut.json["region"]) == (503, "region-unreachable", "b")
        stranger = await it.ask("PUT", "/v1/order/k", {"region": "mars"})
        assert (stranger.status, stranger.problem) == (422, "invalid-document")


@in_virtual_time
async def test_a_listing_of_a_strong_collection_says_that_it_is_causal() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        answer = await it.ask("GET", "/v1/account")
        assert answer.headers["atoll-degraded"] == "causal listing"


# -- idempotency ---------------------------------------------------------------------------------------


async def test_a_repeated_write_counts_once() -> None:
    async with Served() as it:
        answers = [
            await it.ask("PATCH", "/v1/views/p", {"$inc": {"seen": 1}}, idempotency_key="once")
            for _ in range(3)
        ]
        assert [answer.headers.get("atoll-replayed") for answer in answers] == [None, "true", "true"]
        assert {answer.body for answer in answers} == {answers[0].body}
        assert it.shown("a", "views", "p") == {"seen": 1}


async def test_an_idempotency_key_is_for_one_write() -> None:
    async with Served() as it:
        await it.ask("PATCH", "/v1/views/p", {"$inc": {"seen": 1}}, idempotency_key="once")
        other = await it.ask("PATCH", "/v1/views/p", {"$inc": {"seen": 2}}, idempotency_key="once")
        assert (other.status, other.problem) == (422, "idempotency-key-reused")
        for key in ("", "x" * 256, "a\nb"):
            answer = await it.ask("PUT", "/v1/profile/k", ANN, idempotency_key=key)
            assert answer.problem == "malformed-request"


# -- siblings ------------------------------------------------------------------------------------------


async def test_concurrent_versions_are_offered_where_the_choice_is_the_applications() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/page/k", {"title": "ours"})
        assert "siblings" not in (await it.ask("GET", "/v1/page/k")).json
        await it.arrived(put_of(RULES["page"], "k", b'{"title":"theirs"}'))
        answer = (await it.ask("GET", "/v1/page/k")).json
    assert answer["value"] == {"title": "ours"}
    assert [(s["region"], s["seq"], s["value"]["title"]) for s in answer["siblings"]] == [
        ("b", 1, "theirs"),
        ("a", 1, "ours"),
    ]


# -- batches -------------------------------------------------------------------------------------------


async def test_a_batch_is_one_entry() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/old", ANN)
        writes = [
            {"put": {"collection": "profile", "key": "new", "value": ANN}},
            {"patch": {"collection": "views", "key": "p", "operators": {"$inc": {"seen": 1}}}},
            {"delete": {"collection": "profile", "key": "old", "if_match": "*"}},
        ]
        answer = await it.ask("POST", "/v1/batch", {"writes": writes})
        assert it["a"].vector == {"a": 2}
    assert [(w["collection"], w["key"], w["value"]) for w in answer.json["written"]] == [
        ("profile", "new", ANN),
        ("views", "p", {"seen": 1}),
        ("profile", "old", None),
    ]


async def test_a_batch_may_be_answered_briefly_and_is_still_done_once() -> None:
    async with Served() as it:
        writes = [
            {"put": {"collection": "profile", "key": "a", "value": ANN}},
            {"patch": {"collection": "views", "key": "p", "operators": {"$inc": {"seen": 1}}}},
        ]
        headers = {"prefer": "return=minimal", "idempotency_key": "k"}
        for replayed in (None, "true"):
            answer = await it.ask("POST", "/v1/batch", {"writes": writes}, **headers)
            assert (answer.status, answer.json) == (200, {"written": []})
            assert answer.headers["preference-applied"] == "return=minimal"
            assert answer.headers.get("atoll-replayed") == replayed
        assert (await it.ask("GET", "/v1/views/p")).json["value"] == {"seen": 1}
        other = [{"put": {"collection": "profile", "key": "b", "value": ANN}}] * 2
        assert (
            await it.ask("POST", "/v1/batch", {"writes": other}, **headers)
        ).problem == "idempotency-key-reused"


async def test_puts_of_a_batch_are_checked_as_single_ones_are() -> None:
    async with Served() as it:
        good = {"put": {"collection": "profile", "key": "k", "value": ANN}}
        for bad, problem in (
            ({**ANN, "age": "x"}, "invalid-document"),
            ({**ANN, "aeg": 1}, "unknown-field"),
            ([], "invalid-document"),
            ({**ANN, "age": 2**70}, "invalid-document"),
        ):
            put = {"put": {"collection": "profile", "key": "l", "value": bad}}
            assert (await it.ask("POST", "/v1/batch", {"writes": [good, put]})).problem == problem
        for key, problem in (("", "invalid-key"), ("a\n", "invalid-key")):
            put = {"put": {"collection": "profile", "key": key, "value": ANN}}
            assert (await it.ask("POST", "/v1/batch", {"writes": [good, put]})).problem == problem
        assert it["a"].vector == {}


async def test_a_batch_is_all_or_nothing() -> None:
    async with Served() as it:
        put = {"put": {"collection": "profile", "key": "k", "value": ANN}}
        for bad in (
            {"delete": {"collection": "profile", "key": "none"}},
            {"put": {"collection": "profile", "key": "l", "value": ANN, "if_match": "x"}},
        ):
            assert (await it.ask("POST", "/v1/batch", {"writes": [put, bad]})).status in (404, 412)
        assert it["a"].vector == {}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([], "malformed-request"),
        ({}, "malformed-request"),
        ({"writes": {}}, "malformed-request"),
        ({"writes": [], "more": 1}, "malformed-request"),
        ({"writes": []}, "invalid-operation"),
        ({"writes": [1]}, "malformed-request"),
        ({"writes": [{"put": {}, "delete": {}}]}, "malformed-request"),
        ({"writes": [{"put": []}]}, "malformed-request"),
        ({"writes": [{"put": {"collection": "profile"}}]}, "malformed-request"),
        ({"writes": [{"put": {"key": "k", "value": {}}}]}, "malformed-request"),
        ({"writes": [{"delete": {"collection": "x", "key": "k"}}]}, "unknown-collection"),
        ({"writes": [{"delete": {"collection": "profile", "key": ""}}]}, "invalid-key"),
        ({"writes": [{"put": {"collection": "profile", "key": "k"}}]}, "malformed-request"),
        ({"writes": [{"put": {"collection": "profile", "key": "k", "value": 1}}]}, "invalid-document"),
        ({"writes": [{"delete": {"collection": "profile", "key": "k", "why": 1}}]}, "malformed-request"),
        ({"writes": [{"replace": {"collection": "profile", "key": "k"}}]}, "malformed-request"),
        (
            {"writes": [{"patch": {"collection": "profile", "key": "k", "operators": {}}}]},
            "invalid-operation",
        ),
        ({"writes": [{"delete": {"collection": "profile", "key": "k", "if_match": 1}}]}, "malformed-request"),
    ],
)
async def test_a_batch_that_cannot_be_read_is_refused(body: object, problem: str) -> None:
    async with Served() as it:
        assert (await it.ask("POST", "/v1/batch", body)).problem == problem


# -- listings ------------------------------------------------------------------------------------------


async def filled(it: Served, count: int = 7) -> None:
    for n in range(count):
        await it.ask("PUT", f"/v1/profile/{'ab'[n % 2]}{n}", {"name": f"n{n}", "age": n})


async def test_a_listing_goes_page_by_page() -> None:
    async with Served() as it:
        await filled(it)
        keys: list[str] = []
        query = {"limit": "3"}
        for _ in range(3):
            page = (await it.ask("GET", "/v1/profile", query=query)).json
            keys += [item["key"] for item in page["items"]]
            query["cursor"] = page["cursor"] or ""
        assert keys == ["a0", "a2", "a4", "a6", "b1", "b3", "b5"]
        assert page["cursor"] is None


async def test_a_page_that_is_just_full_is_the_last() -> None:
    async with Served() as it:
        await filled(it, 3)
        assert (await it.ask("GET", "/v1/profile", query="limit=3")).json["cursor"] is None
        assert (await it.ask("GET", "/v1/profile", query="limit=2")).json["cursor"] is not None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"prefix": "a"}, ["a0", "a2", "a4"]),
        ({"where": "age:ge:3"}, ["a4", "b3"]),
        ({"where": ["age:gt:0", "age:lt:3"]}, ["a2", "b1"]),
        ({"where": "name:eq:n3"}, ["b3"]),
        ({"where": 'name:eq:"n3"'}, ["b3"]),
        ({"where": "name:contains:4"}, []),
        ({"where": 'name:contains:"4"'}, ["a4"]),
        ({"where": "name:eq:a:b"}, []),
        ({"where": "age:ne:0", "prefix": "a", "limit": "1"}, ["a2"]),
    ],
)
async def test_a_listing_can_be_narrowed(query: dict[str, object], found: list[str]) -> None:
    async with Served() as it:
        await filled(it, 5)
        items = (await it.ask("GET", "/v1/profile", query=query)).json["items"]
        assert [item["key"] for item in items] == found


async def test_a_listing_shows_what_one_document_shows() -> None:
    async with Served() as it:
        await filled(it, 1)
        (item,) = (await it.ask("GET", "/v1/profile")).json["items"]
        assert item == (await it.ask("GET", "/v1/profile/a0")).json


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"limit": "0"}, "malformed-request"),
        ({"limit": "1001"}, "malformed-request"),
        ({"limit": "-1"}, "malformed-request"),
        ({"limit": "9" * 30}, "malformed-request"),
        ({"limit": "²"}, "malformed-request"),
        ({"cursor": "!"}, "invalid-cursor"),
        ({"cursor": "_w"}, "invalid-cursor"),
        ({"where": "age"}, "malformed-request"),
        ({"where": "age:about:3"}, "malformed-request"),
        ({"where": "age:eq"}, "malformed-request"),
        ({"where": "agee:eq:3"}, "unknown-field"),
        ({"where": "age:eq:[1]"}, "malformed-request"),
        ({"where": f"age:eq:{2**63}"}, "malformed-request"),
        ({"where": ["age:eq:1"] * 21}, "malformed-request"),
        ({"colour": "red"}, "malformed-request"),
        ({"prefix": "x" * 20_000}, "too-large"),
        ({"prefix": "e\u0301"}, "invalid-key"),
    ],
)
async def test_a_listing_that_cannot_be_made_says_why(query: dict[str, object], problem: str) -> None:
    async with Served() as it:
        assert (await it.ask("GET", "/v1/profile", query=query)).problem == problem


async def test_a_listing_comes_after_its_session() -> None:
    async with Served() as it:
        token = CODEC.encode({"b": 1})
        late = await it.ask("GET", "/v1/note", query="max_wait=0", atoll_session=token)
        assert late.problem == "token-not-reached"
        assert (await it.ask("GET", "/v1/profile", atoll_session=token)).status == 200


async def too_late(it: Served) -> None:
    """Region b has written what its journal no longer holds, while a was away; `partition()` lets a find out."""
    await it.settled()
    it.partition("ab")
    await asyncio.sleep(60)
    await it.write("b", "profile", "ann", {"name": "Ann"})
    await asyncio.sleep(60)
    await it.write("b", "profile", "ben", {"name": "Ben"})  # the newest segment is never cut
    await asyncio.sleep(60)


@pytest.mark.parametrize("adopted_only", [True, False])
@in_virtual_time
async def test_a_listing_beside_a_snapshot_has_no_token_for_what_it_did_not_show(adopted_only: bool) -> None:
    async with Served("a", "b", journal_s=0.0, journal_round_s=1.0, journal_absent_s=30.0) as it:
        await too_late(it)
        scan = it.stores["a"].scan

        async def slow(*arguments: Any, **named: Any) -> list[tuple[str, Row]]:
            rows = await scan(*arguments, **named)
            it.partition()
            while not it["a"].vector:
                await it["a"].committed.wait()
            while not (adopted_only or it.shown("a", "profile", "ann")):  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.01)
            return rows

        it.stores["a"].scan = slow  # type: ignore[method-assign]
        answer = await it.ask("GET", "/v1/profile")
        assert (answer.status, answer.problem) == (503, "unavailable")
        assert "atoll-session" not in answer.headers
        it.stores["a"].scan = scan  # type: ignore[method-assign]
        await asyncio.sleep(5)
        answer = await it.ask("GET", "/v1/profile")
        assert [item["key"] for item in answer.json["items"]] == ["ann", "ben"]
        assert CODEC.decode(answer.headers["atoll-session"]) == {"b": 2}


@given(st.text(min_size=1))
def test_a_cursor_is_a_key(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    assert decode_cursor(encode_cursor(key)) == key


@given(st.text(max_size=20))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        decode_cursor(text)
    except InvalidCursor:
        return


@given(st.binary(max_size=60))
def test_any_body_is_answered(body: bytes) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with Served() as it:
            for method, path in (("PUT", "/v1/profile/k"), ("PATCH", "/v1/cart/k"), ("POST", "/v1/batch")):
                answer = await it.ask(method, path, body)
                assert answer.status in (200, 400, 413, 422)

    scenario()


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["$set", "$unset", "$inc", "$add", "$splice", "items", "labels", "labels.a", "note", "at"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(_json)
def test_any_patch_is_answered(patch: object) -> None:
    @in_virtual_time
    async def scenario() -> None:
        async with Served() as it:
            for collection in ("cart", "note", "stock"):
                answer = await it.ask("PATCH", f"/v1/{collection}/k", msgspec.json.encode(patch))
                assert answer.status in (200, 400, 404, 409, 422)

    scenario()
