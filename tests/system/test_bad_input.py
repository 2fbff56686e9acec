"""Whatever is sent: a clear problem document, nothing changed, and the server goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from atoll.causality.origin import of_region
from atoll.causality.token import TokenCodec

from .cluster import KEY, REGIONS, Cluster, Region, path_of, until

pytestmark = pytest.mark.xdist_group("shared")

ANN = {"name": "Ann"}


@pytest.fixture
def tokyo(shared: Cluster) -> Iterator[Region]:
    """A region that must come out of the test as it went in."""
    region = shared["tokyo"]
    region.put("profile", "bystander", {"name": "By"})
    region.put("cart", "bystander", {})
    shared.settled()
    before = region.digest(), region.position()
    yield region
    assert (region.digest(), region.position()) == before
    assert region.get("profile", "bystander").value["name"] == "By"


class Bad(NamedTuple):
    what: str
    method: str
    path: str
    body: Any
    status: int
    problem: str


def nested(levels: int) -> bytes:
    return b'{"name":"A","extra":{"a":' + b"[" * levels + b"]" * levels + b"}}"


PROFILE = path_of("profile", "bad")
CART = path_of("cart", "bystander")
DOCUMENTS = [
    Bad("unknown collection", "PUT", "/v1/profil/bad", ANN, 404, "unknown-collection"),
    Bad("unknown collection, reading", "GET", "/v1/nothing/bad", None, 404, "unknown-collection"),
    Bad(
        "unknown collection in a batch",
        "POST",
        "/v1/batch",
        {
            "writes": [
                {"put": {"collection": "profile", "key": "bad", "value": ANN}},
                {"delete": {"collection": "nothing", "key": "k"}},
            ]
        },
        404,
        "unknown-collection",
    ),
    Bad("unknown field", "PUT", PROFILE, {"name": "Ann", "agee": 1}, 422, "unknown-field"),
    Bad("unknown field in a patch", "PATCH", PROFILE, {"$set": {"agee": 1}}, 422, "unknown-field"),
    Bad("unknown field in a filter", "GET", "/v1/profile?where=agee:eq:1", None, 422, "unknown-field"),
    Bad("wrong type", "PUT", PROFILE, {"name": 1}, 422, "invalid-document"),
    Bad("a number in quotes", "PUT", PROFILE, {"name": "A", "age": "3"}, 422, "invalid-document"),
    Bad("missing field", "PUT", PROFILE, {}, 422, "invalid-document"),
    Bad("not an object", "PUT", PROFILE, [1], 422, "invalid-document"),
    Bad("null", "PUT", PROFILE, b"null", 422, "invalid-document"),
    Bad("the key in the body", "PUT", PROFILE, {"name": "A", "key": "bad"}, 422, "invalid-document"),
    Bad("over 1 MiB", "PUT", PROFILE, {"name": "x" * (1 << 20)}, 413, "too-large"),
    Bad("patched over 1 MiB", "PATCH", CART, {"$set": {"note": "x" * (1 << 20)}}, 413, "too-large"),
    Bad("nested too deeply", "PUT", PROFILE, nested(70), 422, "invalid-document"),
    Bad("nested absurdly", "PUT", PROFILE, nested(100_000), 422, "invalid-document"),
    Bad("a patch nested absurdly", "PATCH", PROFILE, nested(100_000), 400, "malformed-request"),
    Bad("NaN", "PUT", PROFILE, b'{"name":"A","score":NaN}', 422, "invalid-document"),
    Bad(
        "Infinity where anything goes",
        "PUT",
        PROFILE,
        b'{"name":"A","extra":{"a":Infinity}}',
        422,
        "invalid-document",
    ),
    Bad("NaN in a patch", "PATCH", PROFILE, b'{"$set":{"score":NaN}}', 400, "malformed-request"),
    Bad("a float beyond floats", "PUT", PROFILE, b'{"name":"A","score":1e999}', 422, "invalid-document"),
    Bad("an integer past 64 bits", "PUT", PROFILE, {"name": "A", "age": 1 << 63}, 422, "invalid-document"),
    Bad(
        "one where anything goes",
        "PUT",
        PROFILE,
        {"name": "A", "extra": {"a": 1 << 70}},
        422,
        "invalid-document",
    ),
    Bad(
        "one in a patch",
        "PATCH",
        PROFILE,
        {"$set": {"name": "A", "age": -(1 << 64)}},
        422,
        "invalid-document",
    ),
    Bad(
        "one in a batch",
        "POST",
        "/v1/batch",
        {
            "writes": [
                {"put": {"collection": "profile", "key": "bad", "value": {"name": "A", "age": 1 << 65}}}
            ]
        },
        422,
        "invalid-document",
    ),
    Bad(
        "one in $inc", "PATCH", path_of("views", "bad"), {"$inc": {"seen": 1 << 64}}, 422, "invalid-operation"
    ),
    Bad(
        "a sale past 64 bits",
        "PATCH",
        path_of("inventory", "bad"),
        {"$inc": {"stock": -(1 << 63) - 1}},
        422,
        "invalid-operation",
    ),
    Bad(
        "a stock past 64 bits",
        "PUT",
        path_of("inventory", "bad"),
        {"stock": 1 << 63},
        422,
        "invalid-document",
    ),
    Bad(
        "a sale of what never was",
        "PATCH",
        path_of("inventory", "bad"),
        {"$inc": {"stock": -(1 << 62)}},
        409,
        "bound-exceeded",
    ),
    Bad(
        "thousands of digits",
        "PUT",
        PROFILE,
        b'{"name":"A","age":' + b"9" * 9000 + b"}",
        422,
        "invalid-document",
    ),
    Bad("malformed JSON", "PUT", PROFILE, b'{"name": Ann}', 400, "malformed-request"),
    Bad("JSON cut short", "PUT", PROFILE, b'{"name": "An', 400, "malformed-request"),
    Bad("an empty body", "PUT", PROFILE, b"", 400, "malformed-request"),
    Bad("no UTF-8", "PUT", PROFILE, b'{"name": "\xff\xfe"}', 400, "malformed-request"),
    Bad("half a surrogate pair", "PUT", PROFILE, b'{"name": "\\ud800"}', 400, "malformed-request"),
    Bad("malformed JSON in a patch", "PATCH", PROFILE, b"{", 400, "malformed-request"),
    Bad("malformed JSON in a batch", "POST", "/v1/batch", b"[", 400, "malformed-request"),
]
KEYS = [
    Bad("an empty key", "PUT", "/v1/profile/", ANN, 400, "invalid-key"),
    Bad("a key of 513 bytes", "PUT", path_of("profile", "k" * 513), ANN, 400, "invalid-key"),
    Bad("a key of 171 wide characters", "PUT", path_of("profile", "鍵" * 171), ANN, 400, "invalid-key"),
    Bad("a key with NUL", "PUT", "/v1/profile/a%00b", ANN, 400, "invalid-key"),
    Bad("a key with a line break", "PUT", "/v1/profile/a%0Ab", ANN, 400, "invalid-key"),
    Bad("a key that is no UTF-8", "PUT", "/v1/profile/%ff%fe", ANN, 400, "invalid-key"),
    Bad("a surrogate in the key", "PUT", "/v1/profile/%ed%a0%80", ANN, 400, "invalid-key"),
    Bad("a decomposed key", "PUT", path_of("profile", "e\u0301"), ANN, 400, "invalid-key"),
    Bad("dots that a client drops", "PUT", "/v1/profile/a%2F..%2Fb", ANN, 400, "invalid-key"),
    Bad(
        "an empty key in a batch",
        "POST",
        "/v1/batch",
        {"writes": [{"put": {"collection": "profile", "key": "", "value": ANN}}]},
        400,
        "invalid-key",
    ),
    Bad("reading a key too long", "GET", path_of("profile", "k" * 600), None, 400, "invalid-key"),
    Bad("deleting a key too long", "DELETE", path_of("profile", "k" * 600), None, 400, "invalid-key"),
]
OPERATIONS = [
    Bad("$inc on a set", "PATCH", CART, {"$inc": {"items": 1}}, 422, "invalid-operation"),
    Bad(
        "$inc on a plain field",
        "PATCH",
        path_of("profile", "bystander"),
        {"$inc": {"age": 1}},
        422,
        "invalid-operation",
    ),
    Bad(
        "$inc by a text", "PATCH", path_of("views", "bad"), {"$inc": {"seen": "1"}}, 422, "invalid-operation"
    ),
    Bad("an operator that is none", "PATCH", CART, {"$push": {"items": ["a"]}}, 422, "invalid-operation"),
    Bad("no operators", "PATCH", CART, {}, 422, "invalid-operation"),
    Bad("operators that are a list", "PATCH", CART, ["$inc"], 422, "invalid-operation"),
    Bad("a set with a wrong element", "PATCH", CART, {"$add": {"items": [1]}}, 422, "invalid-document"),
    Bad(
        "an index past the end",
        "PATCH",
        path_of("note", "bad"),
        {"$splice": {"lines": {"at": 99, "remove": 1, "insert": []}}},
        422,
        "invalid-operation",
    ),
    Bad("deleting what is not there", "DELETE", path_of("profile", "nobody"), None, 404, "not-found"),
    Bad(
        "patching what cannot be made",
        "PATCH",
        path_of("profile", "nobody"),
        {"$set": {"age": 3}},
        404,
        "not-found",
    ),
    Bad("an empty batch", "POST", "/v1/batch", {"writes": []}, 422, "invalid-operation"),
    Bad(
        "too many writes",
        "POST",
        "/v1/batch",
        {"writes": [{"delete": {"collection": "profile", "key": str(n)}} for n in range(1001)]},
        422,
        "invalid-operation",
    ),
    Bad("a batch that is none", "POST", "/v1/batch", {"writes": 3}, 400, "malformed-request"),
    Bad(
        "a verb that is none",
        "POST",
        "/v1/batch",
        {"writes": [{"upsert": {"collection": "profile", "key": "k"}}]},
        400,
        "malformed-request",
    ),
    Bad("a region that is none", "PUT", path_of("order", "bad"), {"region": "mars"}, 422, "invalid-document"),
    Bad("no such route", "POST", "/v1/nothing", {}, 404, "unknown-collection"),
    Bad("no such method", "POST", PROFILE, ANN, 405, "method-not-allowed"),
    Bad("no such page", "GET", "/v2", None, 404, "not-found"),
    Bad("no such kind of id", "POST", "/v1/ids/uuid9", None, 422, "invalid-operation"),
    Bad("too many ids", "POST", "/v1/ids/uuid4?count=99999999", None, 400, "malformed-request"),
]
QUERIES = [
    Bad("a level that is none", "GET", PROFILE + "?consistency=perfect", None, 400, "malformed-request"),
    Bad(
        "strong, where it is not declared",
        "GET",
        PROFILE + "?consistency=strong",
        None,
        422,
        "invalid-operation",
    ),
    Bad("a parameter that is none", "GET", PROFILE + "?consistancy=strong", None, 400, "malformed-request"),
    Bad("NaN seconds", "GET", PROFILE + "?max_wait=nan", None, 400, "malformed-request"),
    Bad("negative staleness", "GET", PROFILE + "?max_staleness=-1", None, 400, "malformed-request"),
    Bad("a page too large", "GET", "/v1/profile?limit=1001", None, 400, "malformed-request"),
    Bad("one hidden behind zeros", "GET", "/v1/profile?limit=00000000011001", None, 400, "malformed-request"),
    Bad(
        "one of thousands of digits",
        "GET",
        "/v1/profile?limit=1" + "0" * 5000,
        None,
        400,
        "malformed-request",
    ),
    Bad("a cursor that is none", "GET", "/v1/profile?cursor=%25%25", None, 400, "invalid-cursor"),
    Bad("a filter that is none", "GET", "/v1/profile?where=age", None, 400, "malformed-request"),
    Bad(
        "a filter with an integer past 64 bits",
        "GET",
        f"/v1/profile?where=age:gt:{1 << 80}",
        None,
        400,
        "malformed-request",
    ),
    Bad("a query that is no UTF-8", "GET", "/v1/profile?prefix=%ff", None, 400, "malformed-request"),
    Bad("a moment before all time", "GET", "/v1/conflicts?since=0001-01-01", None, 400, "malformed-request"),
    Bad("a moment that is none", "GET", "/v1/conflicts?until=noon", None, 400, "malformed-request"),
    Bad(
        "a cursor of the audit that is none", "GET", "/v1/conflicts?cursor=AAAA", None, 400, "invalid-cursor"
    ),
    Bad(
        "an absurd one",
        "GET",
        "/v1/conflicts?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5IGE",
        None,
        400,
        "invalid-cursor",
    ),
    Bad("a conflict that is none", "POST", "/v1/conflicts/zzz/resolve", {"value": {}}, 404, "not-found"),
    Bad("a cursor of the feed that is none", "GET", "/v1/changes?cursor=zzz", None, 400, "invalid-cursor"),
    Bad("a feed of nothing", "GET", "/v1/changes?collection=zzz", None, 404, "unknown-collection"),
    Bad(
        "a peer that is none",
        "POST",
        "/admin/partition",
        {"peer": "mars", "cut": True},
        400,
        "malformed-request",
    ),
    Bad(
        "a delay that is none",
        "POST",
        "/admin/delay",
        {"peer": "virginia", "rtt_ms": -5},
        400,
        "malformed-request",
    ),
]


@pytest.mark.parametrize("bad", DOCUMENTS + KEYS + OPERATIONS + QUERIES, ids=lambda bad: bad.what)
def test_is_refused(tokyo: Region, bad: Bad) -> None:
    answer = tokyo.request(bad.method, bad.path, bad.body)
    assert (answer.status, answer.problem) == (bad.status, bad.problem), answer.body


def test_a_message_names_what_may_have_been_meant(tokyo: Region) -> None:
    assert "did you mean profile" in tokyo.put("profil", "bad", ANN).json["detail"]
    assert "did you mean age" in tokyo.put("profile", "bad", {"name": "A", "agee": 1}).json["detail"]


def test_odd_but_sound_keys_are_kept_as_they_are(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    for key in ("a/b", "a%2Fb", "ключ 鍵 🔑", "?#&=", "'; DROP TABLE doc_profile; --", "k" * 512, " ", '"'):
        assert tokyo.put("profile", key, ANN).json["key"] == key
        assert tokyo.get("profile", key).json["key"] == key
        assert tokyo.delete("profile", key).status == 200


TOKENS = TokenCodec(KEY.encode(), "shop", lambda: REGIONS)
FORMER = TOKENS.encode({"tokyo": 1 << 40})


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "malformed"),
        ("not a token", "malformed"),
        ("\xff\xfe", "malformed"),
        ("A" * 5000, "too-long"),
        (TOKENS.encode({"tokyo": 1})[:-4], "bad-signature"),
        (
            TokenCodec(b"another deployment's key", "shop", lambda: REGIONS).encode({"tokyo": 1}),
            "bad-signature",
        ),
        (TokenCodec(KEY.encode(), "another", lambda: REGIONS).encode({"tokyo": 1}), "bad-signature"),
        (TokenCodec(KEY.encode(), "shop", lambda: [*REGIONS, "mars"]).encode({"mars": 1}), "unknown-region"),
        (TOKENS.encode({"virginia": 1 << 60}), "absurd"),
    ],
)
def test_a_token_that_is_no_use_is_refused(tokyo: Region, token: str, reason: str) -> None:
    is_refused(tokyo, token, reason)


def test_a_token_of_entries_that_do_not_exist_is_refused(tokyo: Region) -> None:
    seen = TOKENS.decode(tokyo.get("profile", "bystander").token["Atoll-Session"])
    (present,) = of_region(seen, "tokyo")
    is_refused(tokyo, TOKENS.encode({present: 1 << 40}), "never-issued")
    # An earlier incarnation never was here, or ended. That is known once every peer was heard.
    until(
        lambda: tokyo.get("profile", "bystander", Atoll_Session=FORMER).status == 400, "tokyo to be settled"
    )
    is_refused(tokyo, FORMER, "lost")


def is_refused(tokyo: Region, token: str, reason: str) -> None:
    answers = [
        tokyo.get("profile", "bystander", Atoll_Session=token),
        tokyo.put("profile", "bad", ANN, Atoll_Session=token),
        tokyo.request("GET", "/v1/profile", headers={"Atoll-Session": token}),
    ]
    assert [answer.problem for answer in answers] == ["invalid-token"] * 3
    assert {answer.json["reason"] for answer in answers} == {reason}


@pytest.mark.parametrize(
    ("headers", "status", "problem"),
    [
        ({"If_Match": '"0123456789"'}, 412, "version-mismatch"),
        ({"If_Match": "unquoted"}, 400, "malformed-request"),
        ({"If_None_Match": "*"}, 412, "version-mismatch"),
        ({"If_None_Match": '"x"'}, 400, "malformed-request"),
        ({"Idempotency_Key": "x" * 256}, 400, "malformed-request"),
        ({"Idempotency_Key": ""}, 400, "malformed-request"),
    ],
)
def test_a_precondition_that_does_not_hold_is_refused(
    tokyo: Region, headers: dict[str, str], status: int, problem: str
) -> None:
    answer = tokyo.put("profile", "bystander", ANN, **headers)
    assert (answer.status, answer.problem) == (status, problem)


def test_a_decrement_past_the_bound_says_what_is_left(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    tokyo.put("inventory", "bounded", {"stock": 9})
    shared.settled()
    answer = tokyo.patch("inventory", "bounded", {"$inc": {"stock": -10}})
    assert (answer.status, answer.problem) == (409, "bound-exceeded")
    assert answer.json["left_in_all"] == 9
    assert answer.json["left_here"] == 3
    assert tokyo.get("inventory", "bounded").value["stock"] == 9


def test_a_body_cut_short_changes_nothing(tokyo: Region) -> None:
    head = b"PUT /v1/profile/bad HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"content-length: 100\r\n\r\n"
    tokyo.raw(head + b'{"name": "Ann"}', shut=True)
    assert tokyo.get("profile", "bad").status == 404


def test_a_body_that_lies_about_its_length_is_bounded(tokyo: Region) -> None:
    head = b"PUT /v1/profile/bad HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += b"content-type: application/json\r\n"
    answer = tokyo.raw(head + b"content-length: 99999999999\r\n\r\n{}")
    assert b" 413 " in answer.split(b"\r\n")[0]
    chunks = b"transfer-encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = tokyo.raw(head + chunks + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 16 + b"0\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "sent", [b"\x00" * 64, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02"]
)
def test_what_is_no_http_is_turned_away(tokyo: Region, sent: bytes) -> None:
    answer = tokyo.raw(sent, shut=True)
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]


def test_a_request_for_no_path_is_no_defect(tokyo: Region) -> None:
    for method, status in ((b"OPTIONS", b" 204 "), (b"GET", b" 405 ")):
        answer = tokyo.raw(method + b" * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert status in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("name", ["call", "stream"])
def test_who_is_no_region_may_not_ask_as_one(tokyo: Region, name: str) -> None:
    octets = {"content-type": "application/vnd.atoll"}
    for seal in ("", "tokyo:1:00", "virginia:99999999999999999999:aa", "mars:1:\xff"):
        answer = tokyo.request("POST", f"/replication/{name}", b"\x91", {**octets, "atoll-seal": seal})
        assert answer.status == 400
        assert b"hostile-entry" in answer.body


def test_all_this_was_no_defect(shared: Cluster) -> None:
    assert "Traceback" not in shared.logs()


def test_problem_types_are_listed_in_the_interface_description(shared: Cluster) -> None:
    description = shared["tokyo"].request("GET", "/openapi.json").json
    listed = description["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    used = {bad.problem for bad in DOCUMENTS + KEYS + OPERATIONS + QUERIES}
    assert {f"urn:atoll:problem:{slug}" for slug in used} <= set(listed)
    assert json.dumps(description)
