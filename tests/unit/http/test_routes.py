"""The table of routes, and what dispatch derives from it."""

from __future__ import annotations

import re

import pytest

from atoll.client import multiplex
from atoll.client.multiplexing import _may_share
from atoll.client.transport import Request
from atoll.http.route import JSON, Route
from atoll.http.routes import TABLE
from atoll.schema.collection import RESERVED_NAMES

from .asgi import Connection
from .served import Served

ROUTES = TABLE.routes
BY_PATH: dict[str, list[Route]] = {}
for each in ROUTES:
    BY_PATH.setdefault(each.path, []).append(each)


def concrete(path: str) -> str:
    """A path of the table with its parameters filled in."""
    path = path.replace("{collection}", "profile").replace("{kind}", "uuid7").replace("{saga}", "payment")
    return re.sub(r"{\w+}", "k", path)


def test_every_route_has_a_name_of_its_own() -> None:
    assert len({route.name for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_the_parameters_of_a_path_are_in_its_order(route: Route) -> None:
    named = [each.name for each in route.parameters if each.place == "path"]
    assert named == re.findall(r"{(\w+)}", route.path)
    places = [(each.place, each.name) for each in route.parameters]
    assert len(set(places)) == len(places)


def test_no_collection_can_hide_a_call() -> None:
    """What follows `/v1/` in the table cannot be declared, and what was reserved ahead is not forgotten."""
    calls = {route.path.split("/")[2] for route in ROUTES if route.path.startswith("/v1/")} - {"{collection}"}
    assert calls | {"transactions"} == RESERVED_NAMES


@pytest.mark.parametrize("path", BY_PATH)
async def test_another_method_is_told_which_there_are(path: str) -> None:
    methods = {route.method for route in BY_PATH[path]}
    allowed = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    async with Served() as it:
        for method in {"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "TRACE", "BREW"} - allowed:
            answer = await it.ask(method, concrete(path), b"{}")
            assert (answer.status, answer.headers["allow"]) == (405, ", ".join(sorted(allowed)))
            assert method == "HEAD" or answer.json["allow"] == sorted(allowed)


async def test_options_of_everything_tells_all_methods() -> None:
    async with Served() as it:
        answer = await it.ask("OPTIONS", "*")
        assert answer.status == 204
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize("path", BY_PATH)
async def test_options_tells_the_methods(path: str) -> None:
    async with Served() as it:
        answer = await it.ask("OPTIONS", concrete(path))
    assert (answer.status, answer.body) == (204, b"")
    assert {route.method for route in BY_PATH[path]} < set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("method", ["OPTIONS", "BREW", "POST"])
async def test_a_collection_that_is_not_declared_takes_nothing(method: str) -> None:
    async with Served() as it:
        assert (await it.ask(method, "/v1/unheard/k")).problem == "unknown-collection"


@pytest.mark.parametrize("path", [path for path, routes in BY_PATH.items() if routes[0].method == "GET"])
async def test_head_is_answered_as_get_without_a_body(path: str) -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        await it.ask("POST", "/v1/sagas/payment", {"key": "k"})
        answer = await it.ask("HEAD", concrete(path))
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.access != "peer"], ids=lambda route: route.name
)
async def test_a_query_parameter_that_is_unknown_is_refused(route: Route) -> None:
    async with Served() as it:
        kind = JSON if route.body is None else route.body.media_type
        answer = await it.ask(
            route.method, concrete(route.path), b"{}", query="nonsense=1", content_type=kind
        )
    assert (answer.status, answer.problem) == (400, "malformed-request")
    assert all(name in answer.json["detail"] for name in route.query)


TYPES = [
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json;charset=latin-1",
    "application/jso",
]


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.name)
async def test_a_body_of_another_type_is_refused(route: Route) -> None:
    """A page of another site may send these, and its visitor's browser does not ask whether it may."""
    async with Served() as it:
        for given in TYPES:
            answer = await it.ask(route.method, concrete(route.path), b"{}", content_type=given)
            assert (answer.status, answer.problem) == (415, "unsupported-media-type")
        assert route.body is not None
        answer = await it.ask(
            route.method,
            concrete(route.path),
            b"{}",
            content_type=route.body.media_type,
            content_encoding="gzip",
        )
        assert (answer.status, answer.problem) == (415, "unsupported-media-type")
        assert it["a"].vector == {}


@pytest.mark.parametrize("given", ["application/json;charset=utf-8", 'Application/JSON ; Charset="UTF-8"'])
async def test_json_in_utf_8_is_taken(given: str) -> None:
    async with Served() as it:
        assert (await it.ask("PUT", "/v1/profile/k", {"name": "x"}, content_type=given)).status == 200


async def test_a_header_that_counts_once_is_not_given_twice() -> None:
    async with Served() as it:
        for name in ("Idempotency-Key", "Atoll-Session", "Host"):
            twice = Connection("GET", b"/v1/profile/k")
            twice.scope["headers"] = [(name.lower().encode(), value) for value in (b"one", b"two")]
            await it.apps["a"](twice.scope, twice.receive, twice.send)
            assert (twice.status, b"more than once" in twice.body) == (400, True)


def test_what_a_client_sends_with_others_can_be_asked_so() -> None:
    """The client decides by the form of the path, as it does not know this table."""
    for route in ROUTES:
        request = Request("a", route.method, concrete(route.path), "", {}, b"", 5.0)
        if route.path.startswith("/v1/") and route.path != multiplex.PATH and _may_share(request):
            assert route.multiplexed, route.name
