"""Whatever a request says is heeded, or refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.client import multiplex
from atoll.client.multiplex import AnswerReader, Asked
from atoll.client.transport import Request

from .served import Answer, Served

TWICE = [
    ("PUT", "/v1/profile/k", b'{"name":"a","name":"b"}'),
    ("PUT", "/v1/profile/k", b'{"name":"a:b","age":1,"n\\u0061me":"b"}'),
    ("PATCH", "/v1/profile/k", b'{"$set":{"name":"a"},"$set":{"name":"b"}}'),
    ("PATCH", "/v1/profile/k", b'{"$set":{"name":"a","name":"b"}}'),
    ("PATCH", "/v1/profile/k", b'{"$set":{"age":1},"$set":{"age":2},"$inc":{":\\u003a":1}}'),
    ("POST", "/v1/batch", b'{"writes":[],"writes":[{"delete":{"collection":"profile","key":"k"}}]}'),
    ("POST", "/v1/batch", b'{"writes":[{"delete":{"collection":"profile","key":"x","key":"k"}}]}'),
    (
        "POST",
        "/v1/batch",
        b'{"writes":[{"put":{"collection":"profile","key":"k","value":{"name":"n","age":1,"age":2}}}]}',
    ),
    (
        "POST",
        "/v1/batch",
        b'{"writes":[{"patch":{"collection":"profile","key":"k","operators":{"$set":{"age":1,"age":2}}}}]}',
    ),
    ("POST", "/v1/conflicts/c/resolve", b'{"value":{"name":"a","name":"b"}}'),
    ("POST", "/admin/drain", b'{"draining":false,"draining":true}'),
]


@pytest.mark.parametrize(("method", "path", "body"), TWICE)
async def test_a_member_that_is_given_twice_is_refused(method: str, path: str, body: bytes) -> None:
    async with Served() as it:
        before = await it.ask("PUT", "/v1/profile/k", {"name": "here"})
        answer = await it.ask(method, path, body)
        assert (answer.status, answer.problem) == (400, "malformed-request")
        assert "given twice" in answer.json["detail"]
        assert (await it.ask("GET", "/v1/profile/k")).headers["etag"] == before.headers["etag"]
        assert (await it.ask("GET", "/health/serving")).status == 200


@pytest.mark.parametrize("spaced", ["2026-11-23T09:00:00", "2026-11-23", "2026-11-23 09:00"])
@pytest.mark.parametrize("path", ["/v1/conflicts", "/v1/events"])
async def test_a_moment_needs_a_zone(path: str, spaced: str) -> None:
    async with Served() as it:
        answer = await it.ask("GET", path, query={"since": spaced})
        assert (answer.status, "time zone" in answer.json["detail"]) == (400, True)
        for zoned in ("2026-11-23T09:00:00Z", "2026-11-23T09:00:00+09:00", "0", "1700000000000"):
            assert (await it.ask("GET", path, query={"since": zoned})).status == 200


@pytest.mark.parametrize(
    ("path", "query", "status", "told"),
    [
        ("/v1/conflicts", "collection=profil", 404, "profile"),
        ("/v1/conflicts", "origin=mars", 400, "there are a"),
        ("/v1/conflicts", "kind=any", 400, "update_deleted"),
        ("/v1/conflicts", "status=opened", 400, "open"),
        ("/v1/events", "kind=any", 400, "restored"),
        ("/v1/events", "region=mars", 400, "there are a"),
        ("/v1/profile", "consistency=weak", 400, "eventual"),
        ("/v1/profile", "where=nam:eq:x", 422, "name"),
        ("/v1/profile", "max_wait=1_0", 400, "seconds"),
        ("/v1/profile", "max_wait=%201", 400, "seconds"),
        ("/v1/profile", "max_wait=%2B1", 400, "seconds"),
        ("/v1/profile", "max_wait=1e999", 400, "seconds"),
        ("/v1/profile", "cursor=", 400, "without a cursor"),
        ("/v1/profile", "cursor=ZcyB", 400, "normal form C"),  # e and U+0301
        ("/v1/profile", "prefix=a%00", 400, "U+0000"),
        ("/v1/profile", "prefix=e%CC%81", 400, "normal form C"),
        ("/v1/conflicts", "key=", 400, "at least one character"),
        ("/v1/conflicts", "key=e%CC%81", 400, "normal form C"),
        ("/v1/conflicts", "since=20261123", 400, "time zone"),
        ("/v1/conflicts", "until=1700000000", 400, "time zone"),
        ("/v1/events", "since=20261123090000", 400, "time zone"),
    ],
)
async def test_a_filter_of_an_unknown_value_is_refused(path: str, query: str, status: int, told: str) -> None:
    async with Served() as it:
        answer = await it.ask("GET", path, query=query)
        assert (answer.status, told in answer.json["detail"]) == (status, True), answer.body


async def written(it: Served) -> str:
    return (await it.ask("PUT", "/v1/profile/k", {"name": "here"})).headers["etag"]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("DELETE", {"if_none_match": "*"}),
        ("DELETE", {"if_none_match": '"x"'}),
        ("PATCH", {"if_none_match": "*"}),
        ("PUT", {"if_none_match": '"x"'}),
        ("PUT", {"if_none_match": '*, "x"'}),
        ("GET", {"if_match": "*"}),
        ("GET", {"if_none_match": "x"}),
        ("PUT", {"if_match": "x"}),
        ("PUT", {"if_match": '"x'}),
        ("DELETE", {"if_match": '"x" "y"'}),
        ("DELETE", {"if_match": '"x", *'}),
        ("PUT", {"if_none_match": '"*"'}),
        ("PUT", {"if_unmodified_since": "Sat, 29 Oct 1994 19:43:31 GMT"}),
        ("DELETE", {"if_unmodified_since": "Sat, 29 Oct 1994 19:43:31 GMT"}),
        ("PUT", {"content_range": "bytes 0-4/10"}),
    ],
)
async def test_a_condition_that_is_not_taken_is_refused(method: str, headers: dict[str, str]) -> None:
    async with Served() as it:
        tag = await written(it)
        body = b'{"$set":{"name":"x"}}' if method == "PATCH" else b'{"name":"x"}' if method == "PUT" else b""
        answer = await it.ask(method, "/v1/profile/k", body, **headers)
        assert (answer.status, answer.problem) == (400, "malformed-request")
        assert (await it.ask("GET", "/v1/profile/k")).headers["etag"] == tag


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_one_of_several_versions_has_to_be_there(method: str) -> None:
    body = {"PUT": {"name": "new"}, "PATCH": {"$set": {"name": "new"}}}.get(method, b"")
    async with Served() as it:
        for given, status in (
            ('"*"', 412),
            ('"x", "y"', 412),
            ('W/{tag}, "x"', 412),
            ("W/{tag}", 412),
            ('"x", {tag}', 200),
            ('{tag},"x"', 200),
            (' , {tag} ,, "a,b"', 200),
        ):
            tag = await written(it)
            answer = await it.ask(method, "/v1/profile/k", body, if_match=given.format(tag=tag))
            assert answer.status == status, (given, answer.body)
            assert (tag == (await it.ask("GET", "/v1/profile/k")).headers.get("etag")) == (status == 412)


async def test_what_a_reader_has_may_be_one_of_several_weakly() -> None:
    async with Served() as it:
        tag = await written(it)
        for given, status in (
            (f'"x", {tag}', 304),
            (f"W/{tag}", 304),
            ("*", 304),
            ('"x", W/"y"', 200),
            ('"*"', 200),
        ):
            assert (await it.ask("GET", "/v1/profile/k", if_none_match=given)).status == status
        dated = await it.ask("GET", "/v1/profile/k", if_modified_since="Sat, 29 Oct 1994 19:43:31 GMT")
        assert dated.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/profile/k"),
        ("DELETE", "/v1/profile/k"),
        ("HEAD", "/v1/profile"),
        ("POST", "/v1/ids/uuid7"),
    ],
)
async def test_a_body_that_is_not_taken_is_refused(method: str, path: str) -> None:
    async with Served() as it:
        tag = await written(it)
        for headers in ({"content_length": "2"}, {"transfer_encoding": "chunked"}):
            assert (await it.ask(method, path, b"{}", **headers)).status == 400
        assert (await it.ask("GET", "/v1/profile/k")).headers["etag"] == tag
        assert (await it.ask(method, path, content_length="0")).status == 200


async def test_within_another_request_the_same_holds() -> None:
    asked = [
        Asked("DELETE", "/v1/profile/k", "", {"if-none-match": "*"}, b""),
        Asked("DELETE", "/v1/profile/k", "", {}, b'{"if_match": "x"}'),
        Asked("DELETE", "/v1/profile/k", "if_match=x", {}, b""),
        Asked("PUT", "/v1/profile/k", "", {"content-type": "application/json"}, b'{"name":"a","name":"b"}'),
        Asked("DELETE", "/v1/profile/k", "", {"If-Match": '"x"', "if-match": '"y"'}, b""),
        Asked("DELETE", "/v1/profile/k?if_match=x", "", {}, b""),
        Asked("DELETE", "/v1/profile/k#x", "", {}, b""),
        Asked("DELETE", "/v1/profile/k", "", {"content-length": "0"}, b"{}"),
    ]
    async with Served() as it:
        tag = await written(it)
        headers = {"content-type": multiplex.CONTENT_TYPE}
        request = Request("a", "POST", multiplex.PATH, "", headers, multiplex.encode_asked(asked), 5.0)
        answer = await it.transport().send(request)
        found = AnswerReader(1 << 20).feed(answer.body)
        statuses = {each.number: each.status for each in found}
        assert statuses == {**dict.fromkeys(range(len(asked)), 400), 4: 412}
        assert (await it.ask("GET", "/v1/profile/k")).headers["etag"] == tag


async def test_a_preference_among_others_is_heeded() -> None:
    writes: list[Any] = [{"put": {"collection": "profile", "key": k, "value": {"name": k}}} for k in "xy"]
    async with Served() as it:
        answer: Answer = await it.ask(
            "POST", "/v1/batch", {"writes": writes}, prefer="wait=5, return=minimal"
        )
        assert answer.headers["preference-applied"] == "return=minimal"
        assert msgspec.json.decode(answer.body) == {"written": []}


@pytest.mark.parametrize("path", ["/v1/ids/uuid7", "/admin/drain", multiplex.PATH])
async def test_an_idempotency_key_that_is_not_taken_is_refused(path: str) -> None:
    async with Served() as it:
        types = {"content_type": multiplex.CONTENT_TYPE} if path == multiplex.PATH else {}
        answer = await it.ask("POST", path, {"draining": True}, idempotency_key="k", **types)
        assert (answer.status, "idempotency-key" in answer.json["detail"]) == (400, True)
        assert (await it.ask("GET", "/health/serving", idempotency_key="k")).status == 200


@pytest.mark.parametrize(
    ("prefer", "brief"),
    [
        ("return=minimal", True),
        ('RETURN="Minimal"', True),
        ("wait=1, return=minimal; x=y, return=representation", True),
        ("return=representation, return=minimal", False),
        ("xreturn=minimal", False),
    ],
)
async def test_the_first_of_several_preferences_counts(prefer: str, brief: bool) -> None:
    writes: list[Any] = [{"put": {"collection": "profile", "key": k, "value": {"name": k}}} for k in "xy"]
    async with Served() as it:
        answer = await it.ask("POST", "/v1/batch", {"writes": writes}, prefer=prefer)
        assert (answer.headers.get("preference-applied"), not answer.json["written"]) == (
            "return=minimal" if brief else None,
            brief,
        )


@pytest.mark.parametrize(
    "operators",
    [
        {"$set": {"name": "x"}, "$foo": {}},
        {"$Set": {"name": "x"}},
        {"$set": {"age": 1}, "x": {}},
    ],
)
async def test_an_unknown_operator_is_refused_even_without_fields(operators: Any) -> None:
    async with Served() as it:
        tag = await written(it)
        answer = await it.ask("PATCH", "/v1/profile/k", operators)
        assert (answer.status, answer.problem) == (422, "invalid-operation")
        assert (await it.ask("GET", "/v1/profile/k")).headers["etag"] == tag


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/v1/profile/k", "application/json", 200),
        ("/v1/profile/k", "", 200),
        ("/v1/profile/k", "text/html, application/*;q=0.1", 200),
        ("/v1/profile/k", "text/html, */*; q=.2", 200),
        ("/v1/profile/k", "text/html", 406),
        ("/v1/profile/k", "Application/JSON;q=0, */*", 406),
        ("/v1/profile/k", "*/*;q=0.0", 406),
        ("/metrics", "text/plain;version=0.0.4", 200),
        ("/metrics", "application/json", 406),
        ("/v1/changes", "application/x-ndjson", 406),
    ],
)
async def test_an_answer_that_is_not_accepted_is_not_made(path: str, accept: str, status: int) -> None:
    async with Served() as it:
        await written(it)
        answer = await it.ask("GET", path, accept=accept)
        assert answer.status == status
        assert status == 200 or answer.problem == "not-acceptable"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"expect": "100-Continue"}, 200),
        ({"expect": "200-ok"}, 417),
        ({"transfer_encoding": "chunked"}, 200),
        ({"transfer_encoding": "gzip, chunked"}, 400),
        ({"content_encoding": "gzip"}, 415),
        ({"content_type": "application/json; charset=latin-1"}, 415),
    ],
)
async def test_a_body_comes_as_its_headers_say_or_not_at_all(headers: dict[str, str], status: int) -> None:
    async with Served() as it:
        tag = await written(it)
        answer = await it.ask("PUT", "/v1/profile/k", {"name": "new"}, **headers)
        assert answer.status == status
        if status == 415:
            taken = {
                "accept": "application/json",
                "accept-encoding": "identity",
            }.items() & answer.headers.items()
            assert len(taken) == 1
        assert (tag == (await it.ask("GET", "/v1/profile/k")).headers["etag"]) == (status != 200)
