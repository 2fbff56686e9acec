from __future__ import annotations

import pytest

from atoll.errors import ForeignOrigin, MalformedRequest, Misdirected
from atoll.http.guard import Guard
from atoll.http.routes import TABLE

from .served import Answer, Served

GUARD = Guard(
    ["http://tokyo.example:8401", "http://10.0.0.1:8401"], ["atoll.example"], ["https://shop.example"]
)
JSON_BODIES = [b"{}", b'{"writes": []}', b'{"draining": true}']


@pytest.mark.parametrize(
    "host",
    [
        *("tokyo.example:8401", "TOKYO.example", "tokyo.example.", "tokyo.example:80", "10.0.0.1:8401"),
        *("atoll.example", "localhost:9", "a.localhost", "192.168.1.7", "[::1]:8401", "[2001:db8::7]"),
    ],
)
def test_own_and_allowed_hosts_and_addresses_are_served(host: str) -> None:
    GUARD.check_host(host.encode())


@pytest.mark.parametrize(
    "host", ["evil.example", "tokyo.example.evil.example", "eviltokyo.example", "1.2.3.4.evil"]
)
def test_another_host_is_misdirected(host: str) -> None:
    with pytest.raises(Misdirected, match="allowed_hosts"):
        GUARD.check_host(host.encode())


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a,b", "[::1", "a:b", "a:1:2", "a\x00", "é"])
def test_what_is_no_host_is_malformed(host: str) -> None:
    with pytest.raises(MalformedRequest):
        GUARD.check_host(host.encode())


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({b"origin": b"http://tokyo.example:8401"}, False),
        ({b"origin": b"http://localhost:8401", b"host": b"localhost:8401"}, False),
        ({b"origin": b"https://shop.example"}, True),
        ({b"origin": b"HTTPS://SHOP.example"}, True),
        ({b"sec-fetch-site": b"same-origin"}, False),
        ({b"sec-fetch-site": b"none"}, False),
        ({b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate"}, False),
    ],
)
def test_own_and_allowed_pages_may_ask(headers: dict[bytes, bytes], foreign: bool) -> None:
    assert GUARD.check_origin(headers, "GET") is foreign


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"https://evil.example"},
        {b"origin": b"null"},
        {b"origin": b""},
        {b"origin": b"http://shop.example"},
        {b"origin": b"https://shop.example:444"},
        {b"origin": b"https://shop.example.evil.example"},
        {b"origin": b"http://localhost:3000", b"host": b"localhost:8401"},
        {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"no-cors"},
        {b"sec-fetch-site": b"same-site", b"sec-fetch-mode": b"no-cors"},
        {b"sec-fetch-site": b"CROSS-SITE"},
    ],
)
def test_pages_of_other_sites_may_not(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(ForeignOrigin, match="allowed_origins"):
        GUARD.check_origin(headers, "GET")


def test_only_a_link_that_reads_may_be_followed_from_another_site() -> None:
    followed = {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate"}
    assert not GUARD.check_origin(followed, "HEAD")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(ForeignOrigin):
            GUARD.check_origin(followed, method)


def test_names_and_origins_count_as_browsers_spell_them() -> None:
    guard = Guard(["http://tokyo.:8401"], ["atoll.example."], ["https://shop.example:443", "http://[::1]:80"])
    for host in (b"tokyo:8401", b"tokyo.", b"atoll.example", b"atoll.example.:1"):
        guard.check_host(host)
    for origin in (b"https://shop.example", b"http://[::1]"):
        assert guard.check_origin({b"origin": origin}, "POST")
    with pytest.raises(ForeignOrigin):
        guard.check_origin({b"origin": b"http://shop.example"}, "POST")


def test_everybody_may_be_allowed() -> None:
    guard = Guard(["http://tokyo"], ["*"], ["*"])
    guard.check_host(b"evil.example")
    assert guard.check_origin({b"origin": b"null"}, "POST")


async def asked(it: Served, method: str, path: str, **headers: str) -> Answer:
    return await it.ask(method, path, b"{}" if method in ("PUT", "PATCH", "POST") else b"", **headers)


async def test_no_route_can_be_asked_by_a_page_of_another_site() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        for route in TABLE.routes:
            path = route.path.replace("{collection}", "profile").replace("{kind}", "uuid7")
            path = path.replace("{key}", "k").replace("{id}", "c")
            for headers in ({"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}):
                answer = await asked(it, route.method, path, **headers)
                assert (answer.status, answer.problem) == (403, "foreign-origin"), path
            answer = await asked(it, route.method, path, host="evil.example")
            assert (answer.status, answer.problem) == (421, "misdirected"), path
            if route.body is not None:  # what a form can send without being asked before
                for simple in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                    answer = await asked(it, route.method, path, content_type=simple)
                    assert (answer.status, answer.problem) == (415, "unsupported-media-type"), path
        assert (await it.ask("GET", "/v1/profile/k")).json["value"]["name"] == "x"
        assert (await it.ask("GET", "/health/serving")).status == 200


async def test_a_page_of_an_allowed_site_can_read_what_is_answered() -> None:
    async with Served() as it:
        it.apps["a"].guard = Guard(["http://here"], origins=["https://shop.example"])
        origin = {"origin": "https://shop.example"}
        preflight = await it.ask(
            "OPTIONS", "/v1/profile/k", **origin, access_control_request_method="PUT",
            access_control_request_headers="content-type,if-match",
        )  # fmt: skip
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        assert preflight.headers["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
        allowed = preflight.headers["access-control-allow-headers"].split(", ")
        assert {"Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "Atoll-Session"} <= set(
            allowed
        )
        for answer in (
            await it.ask("PUT", "/v1/profile/k", {"name": "x"}, **origin),
            await it.ask("GET", "/v1/profile/k", **origin),
            await it.ask("GET", "/v1/profile/nobody", **origin),
            await it.ask("GET", "/v1/profile/k", **origin, if_none_match="*"),
        ):
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            assert "Atoll-Session" in answer.headers["access-control-expose-headers"].split(", ")
            assert answer.headers["vary"] == "Origin"
        plain = await it.ask("OPTIONS", "/v1/profile/k")
        assert not [name for name in plain.headers if name.startswith("access-control")]


async def test_a_host_is_given_once() -> None:
    async with Served() as it:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/health/live",
            "query_string": b"",
        }
        for hosts, status in (
            ([b"here"], 200),
            ([], 400),
            ([b"here", b"here"], 400),
            ([b"here", b"evil"], 400),
        ):
            sent: list[int] = []

            async def send(message: dict[str, object], sent: list[int] = sent) -> None:
                sent.append(message.get("status", 0))  # type: ignore[arg-type]

            headers = [(b"host", host) for host in hosts]
            await it.apps["a"]({**scope, "headers": headers}, _nothing, send)  # type: ignore[arg-type]
            assert sent[0] == status


async def _nothing() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}
