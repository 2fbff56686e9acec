"""`/openapi.json`, derived from the table of routes and the declared collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from atoll.config.version import VERSION
from atoll.errors import (
    AtollError,
    ExpectationFailed,
    ForeignOrigin,
    MalformedRequest,
    Misdirected,
    NotAcceptable,
    StoreCorrupt,
    TooLarge,
    error_classes,
)
from atoll.http.bodies import OBJECT, Schema, batch
from atoll.http.common import IF_CHANGED, tagged
from atoll.http.exchange import Exchange
from atoll.http.feed import Change
from atoll.http.parameters import Parameter
from atoll.http.problems import CONTENT_TYPE, PREFIX, headers_of
from atoll.http.route import Answer, Body, Route, Serving
from atoll.schema.application import Application
from atoll.schema.compiled import CollectionSchema

_REFERENCE = "#/components/schemas/{name}"
_ANYWHERE = (
    MalformedRequest,
    ForeignOrigin,
    NotAcceptable,
    ExpectationFailed,
    Misdirected,
    TooLarge,
    AtollError,
    StoreCorrupt,
)
"""Problems that any call may answer with."""


def describe(routes: Iterable[Route], application: Application, url: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document; a route of a collection is described once for each."""
    schemas = {**application.json_schemas(), "Problem": _problem(), "Batch": batch(application.collections)}
    schemas |= msgspec.json.schema_components([Change], ref_template=_REFERENCE)[1]
    paths: dict[str, Any] = {}
    for route in routes:
        named = application.collections.values() if "{collection}" in route.path else (None,)
        for collection in named:
            path = route.path if collection is None else route.path.replace("{collection}", collection.name)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, collection, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Atoll: {application.name}", "version": VERSION},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, collection: CollectionSchema | None, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name if collection is None else f"{route.name}_{collection.name}",
        "description": route.meaning,
        "x-atoll-access": route.access,
        "parameters": [
            _parameter(each)
            for each in route.parameters
            if collection is None or (each.place, each.name) != ("path", "collection")
        ],
        "responses": _responses(route, collection, schemas),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, collection, schemas)}
    return operation


def _responses(
    route: Route, collection: CollectionSchema | None, schemas: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """By status; one that has a good answer and a problem has the content of both."""
    found = _problems(route)
    for answer in route.answers:
        described = _answer(answer, collection, schemas)
        refused = found.get(str(answer.status), {})
        content = {**refused.get("content", {}), **described.get("content", {})}
        found[str(answer.status)] = {**refused, **described, **({"content": content} if content else {})}
    return dict(sorted(found.items()))


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.kind.schema()
    if parameter.most > 1:
        schema = {"type": "array", "items": schema, "maxItems": parameter.most}
    elif parameter.default is not None:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.meaning,
        "required": parameter.required or parameter.place == "path",
        "schema": schema,
    }


def _answer(answer: Answer, collection: CollectionSchema | None, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.meaning}
    if answer.schema is not None:
        described["content"] = _content(answer, collection, schemas)
    if answer.headers:
        described["headers"] = {each.name: _header(each) for each in answer.headers}
    return described


def _header(header: Parameter) -> dict[str, Any]:
    return {"description": header.meaning, "required": header.required, "schema": header.kind.schema()}


def _content(
    carried: Answer | Body, collection: CollectionSchema | None, schemas: dict[str, Any]
) -> dict[str, Any]:
    return {carried.media_type: {"schema": _schema(carried.schema, collection, schemas)}}


def _schema(described: Any, collection: CollectionSchema | None, schemas: dict[str, Any]) -> Schema:
    if isinstance(described, Mapping):
        return dict(described)
    if not isinstance(described, type):
        found: Schema = described(collection)
        return found
    (reference,), found = msgspec.json.schema_components([described], ref_template=_REFERENCE)
    schemas |= found
    return reference


def _problems(route: Route) -> dict[str, Any]:
    by_status: dict[int, list[type[AtollError]]] = {}
    kinds: tuple[type[AtollError], ...] = (*route.problems, *_ANYWHERE)
    for problem in dict.fromkeys(kinds):
        by_status.setdefault(problem.status, []).append(problem)
    return {str(status): _refusal(kinds) for status, kinds in sorted(by_status.items())}


def _refusal(kinds: list[type[AtollError]]) -> dict[str, Any]:
    types = sorted(kind.type for kind in kinds)
    schema = {
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"type": {"enum": [PREFIX + each for each in types]}},
    }
    described: dict[str, Any] = {
        "description": ", ".join(types),
        "content": {CONTENT_TYPE.decode(): {"schema": schema}},
    }
    names = {name for kind in kinds for name, _ in headers_of(kind("")) if name == b"retry-after"}
    if names:
        described["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return described


def _problem() -> Schema:
    return {
        "type": "object",
        "description": "RFC 9457. `definite` tells whether surely nothing happened; further members hold details.",
        "required": ["type", "title", "status", "detail", "definite"],
        "properties": {
            "type": {"type": "string", "enum": sorted(PREFIX + slug for slug in error_classes())},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "definite": {"type": "boolean"},
        },
    }


async def _show(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    await exchange.answer_tagged(on.description())


ROUTES = (
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        handler=_show,
        access="public",
        meaning="OpenAPI 3.1 of the declared collections",
        parameters=(IF_CHANGED,),
        answers=tagged("the description", OBJECT),
    ),
)
