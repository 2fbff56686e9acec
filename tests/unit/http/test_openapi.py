from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from atoll.errors import error_classes
from atoll.http.openapi import describe
from atoll.http.routes import TABLE

from ..commit.shop import SHOP
from .served import Served

DOCUMENT = describe(TABLE.routes, SHOP, "http://here:8401")
METHODS = {"get", "put", "patch", "delete", "post"}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_it_is_openapi() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert set(DOCUMENT) == {"openapi", "info", "servers", "paths", "components"}
    assert DOCUMENT["info"]["title"] == "Atoll: shop"
    assert DOCUMENT["servers"] == [{"url": "http://here:8401"}]
    assert msgspec.json.decode(msgspec.json.encode(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize("collection", SHOP.collections)
def test_every_collection_is_described(collection: str) -> None:
    assert set(DOCUMENT["paths"][f"/v1/{collection}"]) == {"get"}
    assert set(DOCUMENT["paths"][f"/v1/{collection}/{{key}}"]) == {"get", "put", "patch", "delete"}
    schema = DOCUMENT["components"]["schemas"][collection]
    assert set(schema["properties"]) == set(SHOP.collections[collection].fields)
    put = DOCUMENT["paths"][f"/v1/{collection}/{{key}}"]["put"]["requestBody"]["content"]
    assert put["application/json"]["schema"] == {"$ref": f"#/components/schemas/{collection}"}


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    assert {method for _, method, _ in operations()} <= METHODS


def test_every_parameter_in_a_path_is_described() -> None:
    for path, _, operation in operations():
        described = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")


def test_every_parameter_is_complete() -> None:
    for _, _, operation in operations():
        parameters = operation.get("parameters", [])
        assert all({"name", "in", "schema"} <= set(p) for p in parameters)
        assert all(p["in"] in ("path", "query", "header") for p in parameters)
        assert len({(p["name"], p["in"]) for p in parameters}) == len(parameters)


def test_every_answer_is_described() -> None:
    for _, _, operation in operations():
        assert "200" in operation["responses"]
        for status, response in operation["responses"].items():
            assert response["description"]
            if int(status) >= 400 and status not in ("503",):
                assert set(response["content"]) <= {"application/problem+json", "application/vnd.atoll"}


def test_every_route_is_described() -> None:
    described = {(path, method) for path, method, _ in operations()}
    for route in TABLE.routes:
        assert (route.path.replace("{collection}", "profile"), route.method.lower()) in described


def test_every_parameter_and_header_of_a_route_is_described() -> None:
    put = DOCUMENT["paths"]["/v1/profile/{key}"]["put"]
    assert {each["name"] for each in put["parameters"]} >= {
        "key",
        "If-Match",
        "If-None-Match",
        "Idempotency-Key",
    }
    assert set(put["responses"]["200"]["headers"]) >= {
        "Atoll-Session",
        "Atoll-Region",
        "ETag",
        "Atoll-Replayed",
    }
    assert set(put["responses"]) >= {"400", "404", "409", "412", "413", "415", "422", "503", "504", "507"}


def test_a_patch_says_which_operator_fits_which_field() -> None:
    schema = DOCUMENT["paths"]["/v1/cart/{key}"]["patch"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    operators = schema["properties"]
    assert set(operators) == {"$set", "$unset", "$add", "$remove"}
    assert set(operators["$add"]["properties"]) == {"items"}
    assert set(operators["$set"]["patternProperties"]) == {"^labels\\."}


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        target: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        assert isinstance(target, dict)


def test_every_problem_is_listed() -> None:
    listed = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert listed == sorted(f"urn:atoll:problem:{slug}" for slug in error_classes())


async def test_it_is_served() -> None:
    async with Served() as it:
        answer = await it.ask("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.json == describe(TABLE.routes, SHOP, "http://here")
