"""`/openapi.json`, derived from the table of routes and the declared collections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from atoll import errors
from atoll.config.version import VERSION
from atoll.errors import AtollError, error_classes
from atoll.http.bodies import OBJECT, Schema, batch, transaction
from atoll.http.common import IF_CHANGED, tagged
from atoll.http.feed import Change
from atoll.http.parameters import Parameter
from atoll.http.problems import CONTENT_TYPE, PREFIX, headers_of
from atoll.http.route import Answer, Body, Route
from atoll.schema.application import Application
from atoll.schema.compiled import CollectionSchema

_REFERENCE = "#/components/schemas/{name}"
_ANYWHERE = (
    errors.MalformedRequest,
    errors.ForeignOrigin,
    errors.NotAcceptable,
    errors.ExpectationFailed,
    errors.Misdirected,
    errors.TooLarge,
    errors.AtollError,
    errors.StoreCorrupt,
)
"""Problems that any call may answer with."""


def describe(routes: Iterable[Route], application: Application, url: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document; a route of a collection is described once for each."""
    schemas = {**application.json_schemas(), "Problem": _problem(), "Batch": batch(application.collections)}
    schemas["Transaction"] = transaction(application.collections)
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
    content = partial(_content, collection, schemas)
    operation: dict[str, Any] = {
        "operationId": route.name if collection is None else f"{route.name}_{collection.name}",
        "description": route.meaning,
        "x-atoll-access": route.access,
        "parameters": [
            _parameter(each)
            for each in route.parameters
            if collection is None or (each.place, each.name) != ("path", "collection")
        ],
        "responses": _responses(route, content),
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": content(route.body)}
    return operation


def _responses(route: Route, content: Callable[[Answer | Body], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By status; one that has a good answer and a problem has the content of both."""
    found = _problems(route)
    for answer in route.answers:
        described = found.setdefault(str(answer.status), {})
        described["description"] = answer.meaning
        if answer.schema is not None:
            described["content"] = {**described.get("content", {}), **content(answer)}
        if answer.headers:
            described["headers"] = {
                each.name: {
                    "description": each.meaning,
                    "required": each.required,
                    "schema": each.kind.schema(),
                }
                for each in answer.headers
            }
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


def _content(
    collection: CollectionSchema | None, schemas: dict[str, Any], carried: Answer | Body
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


ROUTES = (
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        handler=lambda on, exchange, at: exchange.answer_tagged(on.description()),
        access="public",
        meaning="OpenAPI 3.1 of the declared collections",
        parameters=(IF_CHANGED,),
        answers=tagged("the description", OBJECT),
    ),
)
